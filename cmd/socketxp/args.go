package main

import (
	"os"
	"strings"
)

// takeArgs returns the arguments and hides tokens among them from the process
// list, as far as the system allows. Between the start of the program and this call
// they could be seen; a shell's history keeps them: `login -` and --token-file are
// the better ways.
func takeArgs() []string {
	args := make([]string, 0, len(os.Args))
	for i, a := range os.Args[min(1, len(os.Args)):] {
		args = append(args, strings.Clone(a))
		_, value, ok := strings.Cut(a, "=")
		if !ok {
			value = a
		}
		if looksLikeToken(value) {
			hideArg(value)
			os.Args[i+1] = "…"
		}
	}
	return args
}

// looksLikeToken reports whether s has the form of a token: three parts of
// base64url. The shortest token is longer than 100 bytes.
func looksLikeToken(s string) bool {
	return len(s) > 100 && strings.Count(s, ".") == 2 &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

// takeEnv returns a variable and removes it, so that no program started later
// inherits it, and as far as the system allows nobody can look it up.
func takeEnv(name string) string {
	value := os.Getenv(name)
	if value != "" {
		hideEnv(name)
	}
	_ = os.Unsetenv(name)
	return value
}
