//go:build !unix

package agent

// kernel returns nothing: the system has no uname.
func kernel() string { return "" }
