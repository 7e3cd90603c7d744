// Package manual makes the pages of a program's manual from its commands, and checks
// them, for the tests that keep docs/man fresh. It is no part of any program; only
// tests import it.
package manual

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Program is what a manual is made of.
type Program struct {
	Root    *cobra.Command
	Section int
	// Date is that of the last change of the layout; what changes with the commands needs
	// none.
	Date string
	// Synopsis are further lines of the root's synopsis, in roff.
	Synopsis string
	// Settings is the command whose flags others have too; they are described on its page
	// alone. nil if there is none.
	Settings           *cobra.Command
	Environment, Files [][2]string
}

// Pages returns the pages by file name: one of the program and one of each command of
// its own, with the commands below it.
func (p Program) Pages() map[string]string {
	p.Root.InitDefaultHelpCmd()
	pages := map[string]string{fmt.Sprintf("%s.%d", p.Root.Name(), p.Section): p.rootPage()}
	for _, c := range shown(p.Root) {
		pages[fmt.Sprintf("%s-%s.%d", p.Root.Name(), c.Name(), p.Section)] = p.commandPage(c)
	}
	return pages
}

// page returns the name of a command's page, for roff.
func (p Program) page(c *cobra.Command) string { return roff(p.Root.Name() + "-" + c.Name()) }

func shown(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() || c.Name() == "help" })
}

func (p Program) rootPage() string {
	var b strings.Builder
	root := p.Root
	p.head(&b, root.Name(), root.Short)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.RI [ flags ]\n.I command\n.RI [ argument \" ...]\"\n%s", roff(root.Name()), p.Synopsis)
	section(&b, "DESCRIPTION", root.Long)
	b.WriteString(".SH COMMANDS\n")
	var also []string
	for _, c := range shown(root) {
		also = append(also, p.page(c))
		fmt.Fprintf(&b, ".TP\n.BR %s (%d)\n%s\n", p.page(c), p.Section, roff(c.Short))
	}
	p.flags(&b, "OPTIONS", root, root.Flags(), root.PersistentFlags())
	example(&b, root.Example)
	b.WriteString(".SH ENVIRONMENT\n")
	for _, v := range p.Environment {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(v[0]), roff(v[1]))
	}
	b.WriteString(".SH FILES\n")
	for _, v := range p.Files {
		fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(v[0]), roff(v[1]))
	}
	p.also(&b, also)
	return b.String()
}

func (p Program) commandPage(c *cobra.Command) string {
	var b strings.Builder
	p.head(&b, p.Root.Name()+"-"+c.Name(), c.Short)
	b.WriteString(".SH SYNOPSIS\n")
	below := shown(c)
	if len(below) == 0 || strings.Contains(c.Use, " ") {
		use(&b, c)
	}
	for i, s := range below {
		if i > 0 || strings.Contains(c.Use, " ") {
			b.WriteString(".br\n")
		}
		use(&b, s)
	}
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	section(&b, "DESCRIPTION", long)
	if len(below) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, s := range below {
			p.below(&b, s)
		}
	}
	p.flags(&b, "OPTIONS", c, c.LocalFlags())
	example(&b, c.Example)
	p.also(&b, []string{roff(p.Root.Name())})
	return b.String()
}

// below writes a command that is described on the page of the one above it.
func (p Program) below(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, ".SS %s\n", roff(strings.TrimPrefix(c.CommandPath(), p.Root.Name()+" ")))
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	paragraphs(b, text)
	p.flags(b, "", c, c.LocalFlags())
	if c.Example != "" {
		fmt.Fprintf(b, ".PP\n%s\n", code(c.Example))
	}
	for _, s := range shown(c) {
		p.below(b, s)
	}
}

func (p Program) head(b *strings.Builder, name, short string) {
	fmt.Fprintf(b, ".\\\" Made from the commands by make man; change those.\n.TH %s %d %s SocketXP \"SocketXP Manual\"\n.SH NAME\n%s \\- %s\n",
		strings.ToUpper(roff(name)), p.Section, p.Date, roff(name), roff(strings.ToLower(short[:1])+short[1:]))
}

func use(b *strings.Builder, c *cobra.Command) {
	_, args, _ := strings.Cut(c.Use, " ")
	fmt.Fprintf(b, ".B %s\n", roff(c.CommandPath()))
	if c.HasAvailableLocalFlags() {
		b.WriteString(".RI [ flags ]\n")
	}
	if args != "" {
		fmt.Fprintf(b, ".I %s\n", roffArg(args))
	}
}

func section(b *strings.Builder, heading, text string) {
	fmt.Fprintf(b, ".SH %s\n", heading)
	paragraphs(b, text)
}

// paragraphs sets text with empty lines between paragraphs; lines that are indented
// stay as they are.
func paragraphs(b *strings.Builder, text string) {
	for i, p := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, " ") || strings.Contains(p, "\n ") || strings.Contains(p, "\n\t") {
			b.WriteString(code(p) + "\n")
			continue
		}
		for line := range strings.Lines(p) {
			b.WriteString(roffLine(strings.TrimSuffix(line, "\n")) + "\n")
		}
	}
}

// flags are those of a command, under a heading if section is not "".
func (p Program) flags(b *strings.Builder, section string, c *cobra.Command, sets ...*pflag.FlagSet) {
	var own []*pflag.Flag
	elsewhere := false
	for _, s := range sets {
		s.VisitAll(func(f *pflag.Flag) {
			switch {
			case f.Hidden || f.Name == "help" || slices.ContainsFunc(own, func(g *pflag.Flag) bool { return g.Name == f.Name }):
			case p.Settings != nil && c != p.Settings && p.Settings.Flags().Lookup(f.Name) != nil:
				elsewhere = true
			default:
				own = append(own, f)
			}
		})
	}
	if section != "" && (len(own) > 0 || elsewhere) {
		fmt.Fprintf(b, ".SH %s\n", section)
	}
	for _, f := range own {
		flag(b, f)
	}
	if elsewhere {
		fmt.Fprintf(b, ".PP\nIt takes the settings that\n.BR %s (%d)\ndescribes.\n", p.page(p.Settings), p.Section)
	}
}

func flag(b *strings.Builder, f *pflag.Flag) {
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

func example(b *strings.Builder, text string) {
	if text != "" {
		fmt.Fprintf(b, ".SH EXAMPLES\n%s\n", code(text))
	}
}

func code(text string) string {
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

func (p Program) also(b *strings.Builder, names []string) {
	b.WriteString(".SH SEE ALSO\n")
	for i, n := range names {
		comma := ","
		if i == len(names)-1 {
			comma = ""
		}
		fmt.Fprintf(b, ".BR %s (%d)%s\n", n, p.Section, comma)
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

// Write writes the pages to dir, in place of those that are there.
func (p Program) Write(dir string) error {
	old, err := filepath.Glob(p.all(dir))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	for name, text := range p.Pages() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // G306: a file of the repository
			return err
		}
	}
	return nil
}

// all is the pattern of the program's pages in dir.
func (p Program) all(dir string) string { return filepath.Join(dir, fmt.Sprintf("*.%d", p.Section)) }

// Checkers are the programs that Check runs.
var Checkers = []string{"mandoc", "man"}

// Check compares the pages in dir with the commands, and has them checked by what will
// show them. The error says all that is wrong.
func (p Program) Check(dir string) error {
	pages := p.Pages()
	files, err := filepath.Glob(p.all(dir))
	errs := []error{err}
	if len(files) != len(pages) {
		errs = append(errs, fmt.Errorf("there are %d pages, want %d: make man", len(files), len(pages)))
	}
	for name, text := range pages {
		committed, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // G304: a file of the repository
		if err != nil || string(committed) != text {
			errs = append(errs, fmt.Errorf("%s is stale (%v): make man", name, err)) //nolint:errorlint // there may be none
		}
	}
	for _, checker := range [][]string{
		{"mandoc", "-T", "lint", "-W", "warning"},
		{"man", "--warnings", "--local-file", "--encoding=UTF-8", "--troff-device=utf8", "--ditroff"},
	} {
		for _, f := range files {
			errs = append(errs, lint(checker, f))
		}
	}
	return errors.Join(errs...)
}

// lint returns an error if a checker has anything to say of a page.
func lint(checker []string, page string) error {
	cmd := exec.CommandContext(context.Background(), checker[0], append(slices.Clone(checker[1:]), page)...) //nolint:gosec // G204: one of Checkers
	cmd.Env = append(os.Environ(), "MANWIDTH=80", "LC_ALL=C.UTF-8")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if checker[0] == "mandoc" {
		cmd.Stdout = &complaints
	}
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		return fmt.Errorf("%s of %s: %v\n%s", checker[0], page, err, complaints.String()) //nolint:errorlint // there may be none
	}
	return nil
}
