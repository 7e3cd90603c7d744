//go:build !unix

package agent

import "context"

// account is a user of this machine, which this system does not tell us of.
type account struct{ name, home string }

var errNoAuthorizedKeys = hinted("sign in by password or key", "single-use keys are there on Linux and other Unix systems only")

func lookupAccount(string) (account, error) { return account{}, errNoAuthorizedKeys }

func editKeys(context.Context, string, account, keyEdit) (bool, error) {
	return false, errNoAuthorizedKeys
}

func editAuthorizedKeys(keyEdit) (bool, error) { return false, errNoAuthorizedKeys }
