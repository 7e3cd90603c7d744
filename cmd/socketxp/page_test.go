package main

import "testing"

func TestPageOf(t *testing.T) {
	const gateway = "https://gateway.example.com:8443"
	for _, page := range []string{"https://gateway.example.com:8443/cli#BBBB-BBBB", "https://gateway.example.com/cli", "https://Gateway.example.com:8443/cli?x=1"} {
		if got, err := pageOf(gateway, page); err != nil || got != page {
			t.Errorf("%s: %q, %v", page, got, err)
		}
	}
	for name, page := range map[string]string{
		"nothing": "", "no scheme": "//gateway.example.com/cli", "a path": "/cli", "clear text": "http://gateway.example.com:8443/cli",
		"a file": "file:///etc/passwd", "a script": "javascript:alert(1)", "a program": "ssh://gateway.example.com/", "an option": "--version",
		"another host": "https://evil.example/cli", "a longer name": "https://gateway.example.com.evil.example/", "a part of the name": "https://example.com/",
		"a user before another host": "https://gateway.example.com@evil.example/", "a user": "https://user:hush@gateway.example.com/", "a backslash": `https://evil.example\@gateway.example.com/`,
		"a line more": "https://gateway.example.com/\n--version", "a NUL": "https://gateway.example.com/\x00", "an escape": "https://gateway.example.com/\x1b[2J", "text turned round": "https://gateway.example.com/\u202e",
	} {
		if got, err := pageOf(gateway, page); err == nil {
			t.Errorf("C-11 %s: %q would be opened", name, got)
		}
	}
}
