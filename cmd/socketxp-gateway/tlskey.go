package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"socketxp"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

// rotateFlags say what admin rotate-tls-key is to do.
type rotateFlags struct {
	overlap                   overlap
	status, now, abort, force bool
}

func rotateTLSKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate-tls-key", Short: "Change the key that devices know the gateway by, announced ahead", Args: usageArgs(cobra.NoArgs),
		Long: `Makes the key that the gateway will have next and has it announced: devices that are
connected, or connect meanwhile, write both keys down, and new tokens carry both. When
the overlap is over the gateway changes to the next key by itself, without dropping a
connection, unless devices that were seen in the last 90 days don't know it yet: then it
waits for them.

A device that was away all the time does not connect any more. It says so, and is taken
in again, as the same device, by socketxp login with a new token.

For a gateway with --tls-cert, announce the certificate that comes next by --tls-next-cert
(SIGHUP reads it), and when --status says that the devices know its key, exchange the
files and send SIGHUP again.`,
		Example: `  # once: the change happens in 30 days, or in the time given
  socketxp-gateway admin rotate-tls-key
  socketxp-gateway admin rotate-tls-key --overlap 14d

  # how far it is, and which accounts have devices that don't know the key yet
  socketxp-gateway admin rotate-tls-key --status

  # without waiting any longer; with --force also if devices will be locked out
  socketxp-gateway admin rotate-tls-key --now

  # call it off
  socketxp-gateway admin rotate-tls-key --abort`,
	}
	f := rotateFlags{overlap: overlap(socketxp.DefaultKeyOverlap)}
	cmd.Flags().Var(&f.overlap, "overlap", "how long the next key is announced before it counts")
	cmd.Flags().BoolVar(&f.status, "status", false, "show how far the change is")
	cmd.Flags().BoolVar(&f.now, "now", false, "change to the announced key now")
	cmd.Flags().BoolVar(&f.abort, "abort", false, "call the change off")
	cmd.Flags().BoolVar(&f.force, "force", false, "with --now: though devices will be locked out")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		chosen := 0
		for _, name := range []string{"overlap", "status", "now", "abort"} {
			if cmd.Flags().Changed(name) {
				chosen++
			}
		}
		switch {
		case chosen > 1:
			return usageError{errors.New("--overlap, --status, --now and --abort exclude each other")}
		case f.force && !f.now:
			return usageError{errors.New("--force goes with --now")}
		}
		return nil
	}
	return withConfig(cmd, func(cmd *cobra.Command, _ []string, cfg gateway.Config) error {
		return onStore(cmd, cfg, func(ctx context.Context, db *store.DB) error {
			r := rotation{cfg: cfg, db: db, out: cmd.OutOrStdout()}
			switch {
			case f.status:
				return r.status(ctx)
			case f.now:
				return r.now(ctx, f.force)
			case f.abort:
				return r.abort(ctx)
			}
			return r.stage(ctx, time.Duration(f.overlap))
		})
	})
}

// rotation works on the change of one gateway's key.
type rotation struct {
	cfg gateway.Config
	db  *store.DB
	out io.Writer
}

// errOwnKey says that the key is not the gateway's to make.
var errOwnKey = socketxp.Errorf(socketxp.CodeConflict, "the gateway's key is the one of tls_key, which is yours to make").
	WithHint("announce the next certificate by --tls-next-cert; see --help")

func (r rotation) stage(ctx context.Context, overlap time.Duration) error {
	if r.cfg.TLSCert != "" {
		return errOwnKey
	}
	if r.cfg.PublicURL == "" {
		r.cfg.PublicURL = "https://localhost"
	}
	u, err := url.Parse(r.cfg.PublicURL)
	if err != nil {
		return err
	}
	change, err := gateway.StageKey(r.cfg.DataDir, u.Hostname(), overlap, now())
	if err != nil {
		return err
	}
	if err := r.record(ctx, "gateway-key.stage", "pin "+change.Pin+", from "+stamp(change.ChangeAt)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.out, `The next key is made and announced from now on: devices write it down as they are
connected, and new tokens carry it. Its pin is %s.

%s
Tokens that were made before know the old key alone: they end, or are shown again in the
portal, which gives them the new one. See how far it is:
  socketxp-gateway admin rotate-tls-key --status
`, change.Pin, when(change))
	return err
}

// when says when a change will happen.
func when(c gateway.KeyChange) string {
	if !now().Before(c.ChangeAt) {
		return "The gateway changes to it as soon as no device that was seen in the last 90 days would\nbe locked out."
	}
	return "The gateway changes to it on " + stamp(c.ChangeAt) + ", or as soon after as no device\nthat was seen in the last 90 days would be locked out."
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// nextPin returns the pin of the key that is announced, and the change if it is of
// the gateway's own making.
func (r rotation) nextPin() (pin string, change gateway.KeyChange, err error) {
	switch {
	case r.cfg.TLSNextCert != "":
		pin, err = gateway.PinOfFile(r.cfg.TLSNextCert)
		return pin, change, err
	case r.cfg.TLSCert != "":
		return "", change, socketxp.Errorf(socketxp.CodeNotFound, "no next certificate is announced").WithHint("announce it by --tls-next-cert; see --help")
	}
	change, err = gateway.ReadKeyChange(r.cfg.DataDir)
	return change.Pin, change, err
}

func (r rotation) status(ctx context.Context) error {
	pin, change, err := r.nextPin()
	if errors.Is(err, gateway.ErrNoKeyChange) {
		_, err := fmt.Fprintln(r.out, "No change of the gateway's key is under way.")
		return err
	}
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(r.out, "The pin of the next key is %s.\n", pin)
	if r.cfg.TLSNextCert == "" {
		_, _ = fmt.Fprintf(r.out, "It is announced since %s.\n%s\n", stamp(change.StagedAt), when(change))
	}
	_, err = r.knowledge(ctx, pin)
	return err
}

// knowledge prints how many devices know a key, and returns how many would be locked
// out.
func (r rotation) knowledge(ctx context.Context, pin string) (missing int, err error) {
	all, err := r.db.KeyKnowledge(ctx, pin, now().Add(-gateway.KeySeenWithin))
	if err != nil {
		return 0, err
	}
	_, _ = fmt.Fprintln(r.out)
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ACCOUNT\tDEVICES\tKNOW IT\tDON'T, SEEN IN 90 DAYS\tDON'T, NOT SEEN")
	for _, k := range all {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", k.AccountName, k.Devices, k.Know, k.RecentDont, k.Devices-k.Know-k.RecentDont)
		missing += k.RecentDont
	}
	return missing, w.Flush()
}

// changeWithin is how long a running gateway may take to change its key.
const changeWithin = 30 * time.Second

func (r rotation) now(ctx context.Context, force bool) error {
	if r.cfg.TLSCert != "" {
		return errOwnKey
	}
	pin, _, err := r.nextPin()
	if err != nil {
		return err
	}
	missing, err := r.knowledge(ctx, pin)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(r.out)
	if missing > 0 && !force {
		return socketxp.Errorf(socketxp.CodeConflict, "%d of the devices that were seen in the last 90 days don't know the next key and would be locked out", missing).
			WithHint("wait until they have been connected, or give --force: then each of them needs socketxp login with a new token")
	}
	if err := r.record(ctx, "gateway-key.change", fmt.Sprintf("pin %s, %d devices locked out", pin, missing)); err != nil {
		return err
	}
	if _, err := gateway.ChangeKeyNow(r.cfg.DataDir, force, now()); err != nil {
		return err
	}
	running, err := gateway.Running(r.cfg.DataDir)
	if err != nil {
		return err
	}
	if !running {
		_, err := fmt.Fprintln(r.out, "The gateway does not run: it changes its key when it starts.")
		return err
	}
	late := time.NewTimer(changeWithin)
	defer late.Stop()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		if _, err := gateway.ReadKeyChange(r.cfg.DataDir); errors.Is(err, gateway.ErrNoKeyChange) {
			_, err := fmt.Fprintf(r.out, "The gateway has the key of pin %s now.\n", pin)
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return socketxp.Errorf(socketxp.CodeUnavailable, "the gateway has not changed its key within %s", changeWithin).WithHint("its log says why; it goes on trying")
		}
	}
}

func (r rotation) abort(ctx context.Context) error {
	if r.cfg.TLSCert != "" {
		return errOwnKey
	}
	if err := gateway.AbortKeyChange(r.cfg.DataDir); err != nil {
		return err
	}
	if err := r.record(ctx, "gateway-key.abort", ""); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.out, "The change is called off. Tokens that were made meanwhile go on working.")
	return err
}

// record writes the act into the gateway's own audit chain.
func (r rotation) record(ctx context.Context, action, detail string) error {
	entry := consoleEntry("", action, socketxp.User{}, now())
	entry.ObjectKind, entry.ObjectID, entry.ObjectName, entry.Detail = "gateway", "", "", detail
	_, err := r.db.AppendAudit(ctx, entry)
	return err
}
