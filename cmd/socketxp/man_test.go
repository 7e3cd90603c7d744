package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The committed manual is what the commands say of themselves.
//go:generate go test -run ^TestManPages$ . -update

var update = flag.Bool("update", false, "write the manual to docs/man")

const (
	manDir = "../../docs/man"
	// manDate is that of the last change of the layout; what changes with the
	// commands needs none.
	manDate = "2026-11-25"
)

// manual returns the pages: one of the program and one of each command of its own,
// with the commands below it.
func manual() map[string]string {
	a := &app{}
	root := a.rootCommand()
	root.InitDefaultHelpCmd()
	pages := map[string]string{"socketxp.1": rootPage(root)}
	for _, c := range shownCommands(root) {
		pages["socketxp-"+c.Name()+".1"] = commandPage(c)
	}
	return pages
}

func shownCommands(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() || c.Name() == "help" })
}

func rootPage(root *cobra.Command) string {
	var b strings.Builder
	manHead(&b, "socketxp", root.Short)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B socketxp\n.RI [ flags ]\n.I command\n.RI [ argument \" ...]\"\n.br\n.B socketxp \\-\\-config\n.I FILE\n")
	manText(&b, "DESCRIPTION", root.Long)
	b.WriteString(".SH COMMANDS\n")
	for _, c := range shownCommands(root) {
		fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff("socketxp-"+c.Name()), roff(c.Short))
	}
	manFlags(&b, "OPTIONS", root.Flags(), root.PersistentFlags())
	manExample(&b, root.Example)
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range [][2]string{
		{"SOCKETXP_AUTHTOKEN", "The token of login and of slave mode. It is hidden from programs that are started later."},
		{"SOCKETXP_API_TOKEN", "An api token for scripts, instead of a sign-in. It is hidden, too."},
		{"SOCKETXP_PROFILE", "The name of the gateway's profile, if --profile names none."},
		{"SOCKETXP_WORK_DIR", "The folder of the agent's state, if --work-dir names none."},
		{"HTTPS_PROXY, ALL_PROXY, NO_PROXY", "The proxy on the way to the gateway, the one if HTTPS_PROXY is empty, and what is reached without. Each also in lower case."},
		{"SSL_CERT_FILE", "A file with the authorities that vouch for a proxy of https://, and for a gateway whose key is not known by a token (on Linux)."},
		{"NO_COLOR", "If set, nothing is coloured."},
	} {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v[0]), roff(v[1]))
	}
	b.WriteString(".SH FILES\n")
	for _, v := range [][2]string{
		{"/var/lib/socketxp/device.key", "The device's key, and where it is registered. Not run by root: $XDG_STATE_HOME/socketxp/device.key."},
		{"/etc/socketxp/config.json", "The usual place of the file for --config. It is read only if that names it."},
		{"$XDG_CONFIG_HOME/socketxp/profiles.json", "The gateways that a person works with, and their tokens."},
	} {
		fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(v[0]), roff(v[1]))
	}
	var also []string
	for _, c := range shownCommands(root) {
		also = append(also, roff("socketxp-"+c.Name()))
	}
	manAlso(&b, also)
	return b.String()
}

func commandPage(c *cobra.Command) string {
	var b strings.Builder
	manHead(&b, "socketxp-"+c.Name(), c.Short)
	b.WriteString(".SH SYNOPSIS\n")
	below := shownCommands(c)
	if len(below) == 0 || strings.Contains(c.Use, " ") {
		manUse(&b, c)
	}
	for i, s := range below {
		if i > 0 || strings.Contains(c.Use, " ") {
			b.WriteString(".br\n")
		}
		manUse(&b, s)
	}
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	manText(&b, "DESCRIPTION", long)
	if len(below) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, s := range below {
			manBelow(&b, s)
		}
	}
	manFlags(&b, "OPTIONS", c.LocalFlags())
	manExample(&b, c.Example)
	manAlso(&b, []string{"socketxp"})
	return b.String()
}

// manBelow is a command that is described on the page of the one above it.
func manBelow(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, ".SS %s\n", roff(strings.TrimPrefix(c.CommandPath(), "socketxp ")))
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	manParagraphs(b, text)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { manFlag(b, f) })
	if c.Example != "" {
		fmt.Fprintf(b, ".PP\n%s\n", manCode(c.Example))
	}
	for _, s := range shownCommands(c) {
		manBelow(b, s)
	}
}

func manHead(b *strings.Builder, name, short string) {
	fmt.Fprintf(b, ".\\\" Made from the commands by make man; change those.\n.TH %s 1 %s SocketXP \"SocketXP Manual\"\n.SH NAME\n%s \\- %s\n",
		strings.ToUpper(roff(name)), manDate, roff(name), roff(strings.ToLower(short[:1])+short[1:]))
}

func manUse(b *strings.Builder, c *cobra.Command) {
	_, args, _ := strings.Cut(c.Use, " ")
	fmt.Fprintf(b, ".B %s\n", roff(c.CommandPath()))
	if c.HasAvailableLocalFlags() {
		b.WriteString(".RI [ flags ]\n")
	}
	if args != "" {
		fmt.Fprintf(b, ".I %s\n", roffArg(args))
	}
}

func manText(b *strings.Builder, section, text string) {
	fmt.Fprintf(b, ".SH %s\n", section)
	manParagraphs(b, text)
}

// manParagraphs sets text with empty lines between paragraphs; lines that are indented
// stay as they are.
func manParagraphs(b *strings.Builder, text string) {
	for i, p := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, " ") || strings.Contains(p, "\n ") || strings.Contains(p, "\n\t") {
			b.WriteString(manCode(p) + "\n")
			continue
		}
		for line := range strings.Lines(p) {
			b.WriteString(roffLine(strings.TrimSuffix(line, "\n")) + "\n")
		}
	}
}

func manFlags(b *strings.Builder, section string, sets ...*pflag.FlagSet) {
	var flags []*pflag.Flag
	for _, s := range sets {
		s.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !slices.ContainsFunc(flags, func(g *pflag.Flag) bool { return g.Name == f.Name }) {
				flags = append(flags, f)
			}
		})
	}
	if len(flags) == 0 {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", section)
	for _, f := range flags {
		manFlag(b, f)
	}
}

func manFlag(b *strings.Builder, f *pflag.Flag) {
	if f.Hidden || f.Name == "help" {
		return
	}
	value, usage := pflag.UnquoteUsage(f)
	b.WriteString(".TP\n")
	if f.Shorthand != "" {
		fmt.Fprintf(b, "\\fB\\-%s\\fR, ", roff(f.Shorthand))
	}
	fmt.Fprintf(b, "\\fB\\-\\-%s\\fR", roff(f.Name))
	if value != "" {
		fmt.Fprintf(b, " \\fI%s\\fR", roff(value))
	}
	text := strings.ToUpper(usage[:1]) + usage[1:]
	if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" && d != "0s" {
		text += " (default " + d + ")"
	}
	fmt.Fprintf(b, "\n%s.\n", roffLine(text))
}

func manExample(b *strings.Builder, text string) {
	if text != "" {
		fmt.Fprintf(b, ".SH EXAMPLES\n%s\n", manCode(text))
	}
}

func manCode(text string) string {
	var b strings.Builder
	b.WriteString(".EX\n")
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		if line = roffLine(strings.TrimRight(line, " \n")); line == "" {
			line = `\&`
		}
		b.WriteString(line + "\n")
	}
	return b.String() + ".EE"
}

func manAlso(b *strings.Builder, names []string) {
	b.WriteString(".SH SEE ALSO\n")
	for i, n := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		fmt.Fprintf(b, ".BR %s (1)%s\n", n, comma)
	}
}

// roff escapes text for the middle of a line.
func roff(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '"':
			b.WriteString(`\(dq`)
		case r == '\'':
			b.WriteString(`\(aq`)
		case r == '`':
			b.WriteString(`\(ga`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r > '~':
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// roffLine escapes a line of text.
func roffLine(s string) string {
	if s = roff(s); strings.HasPrefix(s, ".") || strings.HasPrefix(s, `\(aq`) {
		s = `\&` + s
	}
	return s
}

// roffArg escapes the one argument of a macro.
func roffArg(s string) string { return `"` + roff(s) + `"` }

// TestManPages compares the committed manual with the commands, and has it checked by
// what will show it.
func TestManPages(t *testing.T) {
	pages := manual()
	if *update {
		old, err := filepath.Glob(filepath.Join(manDir, "*.1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range old {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(manDir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range pages {
		file := filepath.Join(manDir, name)
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		committed, err := os.ReadFile(file)
		if err != nil || string(committed) != text {
			t.Errorf("%s is stale (%v): make man", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(manDir, "*.1"))
	if err != nil || len(files) != len(pages) {
		t.Errorf("there are %d pages, want %d: make man", len(files), len(pages))
	}
	for _, checker := range [][]string{
		{"mandoc", "-T", "lint", "-W", "warning"},
		{"man", "--warnings", "--local-file", "--encoding=UTF-8", "--troff-device=utf8", "--ditroff"},
	} {
		needs(t, checker[0])
		for _, f := range files {
			cmd := exec.Command(checker[0], append(checker[1:], f)...)
			cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8")
			var complaints strings.Builder
			cmd.Stderr = &complaints
			if checker[0] == "mandoc" {
				cmd.Stdout = &complaints
			}
			if err := cmd.Run(); err != nil || complaints.Len() > 0 {
				t.Errorf("%s of %s: %v\n%s", checker[0], f, err, complaints.String())
			}
		}
	}
}

// needs skips at a desk, and fails in CI, when a program is not installed.
func needs(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: CI must run everything", name)
	}
	t.Skipf("%s is not installed", name)
}
