package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"socketxp"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

// overlap is a flag's value: a duration that may also be in days.
type overlap time.Duration

func (o *overlap) Type() string { return "duration" }

func (o *overlap) String() string {
	if d := time.Duration(*o); d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return time.Duration(*o).String()
}

func (o *overlap) Set(text string) error {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(max(n, -1), 1000)) * day
	}
	if err != nil || d < 0 || d > socketxp.LongestKeyOverlap {
		return errors.New("it is from 0 to 365d, for example 30d or 12h")
	}
	*o = overlap(d)
	return nil
}

const day = 24 * time.Hour

func rotateSigningKeyCommand() *cobra.Command {
	life := overlap(socketxp.DefaultKeyOverlap)
	var compromised string
	var list, yes bool
	cmd := &cobra.Command{
		Use: "rotate-signing-key", Short: "Replace the key that tokens are signed with", Args: usageArgs(cobra.NoArgs),
		Long: `Makes a new key that signs from now on. What the old one signed goes on until it
expires, but not for longer than the overlap; the texts of those tokens can't be
shown again. It can be done while the gateway runs, which follows within 2 s, as do
other gateways on the same database.

With --compromised the tokens of a key are refused at once, everywhere, and what is
open by them is cut. Devices stay registered and connected: they have keys of their
own. A gateway whose own key is withdrawn signs with a new one.`,
		Example: `  # once a year
  socketxp-gateway admin rotate-signing-key

  # somebody may have a copy of the data folder
  socketxp-gateway admin rotate-signing-key --compromised current

  socketxp-gateway admin rotate-signing-key --list`,
	}
	cmd.Flags().Var(&life, "overlap", "how long the tokens of the old key go on at most")
	cmd.Flags().StringVar(&compromised, "compromised", "", "kid of the key whose tokens end now, or \"current\" for the one that signs here")
	cmd.Flags().BoolVar(&list, "list", false, "list the keys, and the tokens that live by them")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask before tokens end")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		switch set := cmd.Flags().Changed; {
		case list && (set("overlap") || set("compromised") || set("yes")):
			return usageError{errors.New("--list only lists")}
		case set("overlap") && set("compromised"):
			return usageError{errors.New("--overlap and --compromised don't go together: a compromised key has no overlap")}
		case set("compromised") && compromised == "":
			return usageError{errors.New("--compromised names no key")}
		}
		return nil
	}
	return withConfig(cmd, func(cmd *cobra.Command, _ []string, cfg gateway.Config) error {
		return onStore(cmd, cfg, func(ctx context.Context, db *store.DB) error {
			own, err := gateway.OwnSigningKeyID(cfg.DataDir)
			if err != nil {
				return err
			}
			// The database's time, if this machine's clock is behind it.
			at, err := db.RaiseClock(ctx, now())
			if err != nil {
				return err
			}
			k := keys{out: cmd.OutOrStdout(), db: db, own: own, at: at}
			if list {
				return k.list(ctx)
			}
			if own == "" {
				return socketxp.Errorf(socketxp.CodeNotFound, "there is no signing key in %s yet", cfg.DataDir).WithHint("the gateway makes one when it starts")
			}
			r := gateway.SigningKeyRotation{At: at, Overlap: time.Duration(life), Entry: socketxp.AuditEntry{
				Actor: socketxp.Actor{Kind: socketxp.KindConsole, RemoteAddr: "console"},
			}}
			if compromised == "" {
				return k.rotate(ctx, cfg.DataDir, r)
			}
			if r.Compromised = compromised; compromised == "current" {
				r.Compromised = own
			}
			return k.withdraw(ctx, cmd, cfg.DataDir, r, yes)
		})
	})
}

// keys is what the command works on.
type keys struct {
	out io.Writer
	db  *store.DB
	own string // kid of the key file in the data folder
	at  time.Time
}

func (k keys) list(ctx context.Context) error {
	all, err := k.db.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(k.out, "There are no signing keys yet: the gateway makes one when it starts.")
		return err
	}
	uses, err := k.db.KeyUses(ctx, k.at, socketxp.EndOfTime)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(k.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "KEY\tSTATE\tSINCE\tUNTIL\tLIVING TOKENS")
	for _, key := range all {
		state, since, until := key.State(k.at), key.CreatedAt, "-"
		switch state {
		case socketxp.KeyActive:
		case socketxp.KeyRetired, socketxp.KeyEnded:
			since, until = key.RetiredAt, key.Until.Format(time.RFC3339)
		case socketxp.KeyCompromised:
			since = key.CompromisedAt
		}
		name := string(state)
		if key.ID == k.own && state == socketxp.KeyActive {
			name += ", signs here"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", key.ID, name, since.Format(time.RFC3339), until, describe(uses, key.ID, living))
	}
	return w.Flush()
}

// living and later select what describe counts.
func living(u socketxp.KeyUse) int { return u.Tokens }
func later(u socketxp.KeyUse) int  { return u.Later }

const none = "none"

// describe counts the tokens of a key by kind: "2 api, 1 access", or none.
func describe(uses []socketxp.KeyUse, id string, count func(socketxp.KeyUse) int) string {
	var parts []string
	for _, u := range uses {
		if n := count(u); u.KeyID == id && n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, u.Kind))
		}
	}
	if len(parts) == 0 {
		return none
	}
	return strings.Join(parts, ", ")
}

func (k keys) rotate(ctx context.Context, dir string, r gateway.SigningKeyRotation) error {
	until := k.at.Add(r.Overlap)
	uses, err := k.db.KeyUses(ctx, k.at, until)
	if err != nil {
		return err
	}
	id, err := gateway.RotateSigningKey(ctx, dir, k.db, r)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(k.out, "The key %s signs from now on.\nThe key %s is retired; its private half is gone.\n", id, k.own)
	_, err = fmt.Fprintf(k.out, "Tokens that live by it: %s. They go on until they expire, at the latest until %s.\n", describe(uses, k.own, living), until.Format(time.RFC3339))
	if early := describe(uses, k.own, later); err == nil && early != none {
		_, err = fmt.Fprintf(k.out, "That is before the expiry of %s of them.\n", early)
	}
	return err
}

func (k keys) withdraw(ctx context.Context, cmd *cobra.Command, dir string, r gateway.SigningKeyRotation, yes bool) error {
	uses, err := k.db.KeyUses(ctx, k.at, socketxp.EndOfTime)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(k.out, "Tokens that end now with the key %s: %s.\nSessions that are open by them are cut. Devices stay connected, and people signed in.\n",
		r.Compromised, describe(uses, r.Compromised, living))
	if !yes {
		if err := confirm(cmd, "Withdraw the key"); err != nil {
			return err
		}
	}
	id, err := gateway.RotateSigningKey(ctx, dir, k.db, r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(k.out, "The key %s is withdrawn. The key %s signs here from now on.\n", r.Compromised, id)
	return err
}

// confirm asks on the terminal whether to do what can't be undone.
func confirm(cmd *cobra.Command, what string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return usageError{socketxp.Errorf(socketxp.CodeInvalid, "there is no terminal to ask whether this is meant").WithHint("if it is, add --yes")}
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s? Type yes to go on: ", what)
	line, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return socketxp.Errorf(socketxp.CodeInvalid, "nothing was done")
	}
	return nil
}
