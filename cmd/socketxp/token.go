package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
)

// tokenFlags are where a token and its gateway come from.
type tokenFlags struct {
	file, gateway, caFile string
}

func (f *tokenFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "token-file", "", "read the token from this `FILE`")
	cmd.Flags().StringVar(&f.gateway, "gateway", "", "the gateway's `URL`, for tokens that carry none")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "trust the certificates of this `FILE` for the gateway, not the key in the token")
}

// target returns the token and its gateway: given is the token of the command line,
// "-" for standard input, or "" for --token-file or SOCKETXP_AUTHTOKEN.
func (a *app) target(f tokenFlags, given string) (agent.Target, error) {
	t := agent.Target{Gateway: f.gateway, CAFile: f.caFile}
	var err error
	switch {
	case given != "" && f.file != "":
		return t, usage("give one of them", "the token is given twice")
	case given == "-":
		if in, ok := a.stdin.(*os.File); ok && isTerminal(in) {
			_, _ = fmt.Fprint(a.stderr, "Token: ")
		}
		t.Token, err = readToken(a.stdin)
	case given != "":
		t.Token = given
	case f.file != "":
		t.Token, err = readTokenFile(f.file)
	default:
		t.Token = a.token
	}
	t.Token = strings.TrimSpace(t.Token)
	return t, err
}

func readTokenFile(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	defer func() { _ = f.Close() }()
	return readToken(f)
}

// readToken reads the first line.
func readToken(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, socketxp.MaxTokenBytes+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if strings.TrimSpace(line) == "" {
		return "", usage("make one in the portal or by the API", "there is no token in it")
	}
	return line, nil
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
