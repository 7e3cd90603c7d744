// Package socketxp is the domain of a platform that reaches devices behind NAT
// and firewalls: accounts, users, devices, auth tokens, tunnels, offers,
// sessions, audit, and the rules that hold between them. It imports the standard
// library only and does no I/O; what it is built on lives in the packages below
// internal/, which share these types and do not know one another more than
// imports_test.go allows.
package socketxp
