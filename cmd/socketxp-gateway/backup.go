package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"socketxp"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "backup FILE|-", Short: "Write a backup of the gateway, also while it runs", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Writes one file (a gzipped tar) with the database as it is at one moment, the signing
key, certificate and key, and what else is in the data folder. Nobody who uses the
gateway meanwhile is held up. The file is there whole or not at all.

It holds keys: whoever has it can act as this gateway. Keep it as you keep those, or
encrypt it on its way, as in the example.

With PostgreSQL the database is not in it: make a dump with pg_dump at the same time.`,
		Example: `  socketxp-gateway admin backup /var/backups/gateway-$(date +%F).tar.gz
  socketxp-gateway admin backup - | age -r age1… > gateway-$(date +%F).tar.gz.age
  socketxp-gateway admin backup verify /var/backups/gateway-2026-11-25.tar.gz`,
	}
	cmd.AddCommand(verifyBackupCommand())
	return withConfig(cmd, func(cmd *cobra.Command, args []string, cfg gateway.Config) error {
		return backUp(cmd, cfg, args[0])
	})
}

func backUp(cmd *cobra.Command, cfg gateway.Config, to string) (err error) {
	ctx := cmd.Context()
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return fmt.Errorf("the data folder: %w", err)
	}
	out, work, commit, err := createBackup(cmd, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	url, err := databaseURL(cfg)
	if err != nil {
		return err
	}
	m := gateway.Manifest{Program: programVersion(), MadeAt: now().Truncate(time.Second)}
	snapshot, copied := "", url
	if store.IsSQLite(url) {
		snapshot = filepath.Join(work, "gateway.db")
		if err := store.Snapshot(ctx, url, snapshot); err != nil {
			return err
		}
		copied = "sqlite:" + snapshot
	}
	// A damaged database is no backup: better to hear of it now.
	i, err := store.Inspect(ctx, copied, false)
	if err != nil {
		return err
	}
	m.Engine, m.Schema, m.Users, m.Devices, m.GatewayID = i.Engine, i.Version, i.Users, i.Devices, i.GatewayID
	if err := gateway.CollectBackup(cfg, snapshot, &m); err != nil {
		return err
	}
	p := newProgress(cmd, "Writing", m.Size())
	if err := gateway.WriteBackup(ctx, out, m, p.show); err != nil {
		return err
	}
	p.end()
	if err := commit(); err != nil {
		return err
	}
	// To standard error: the backup may be on standard output.
	note := func(format string, args ...any) { _, _ = fmt.Fprintf(cmd.ErrOrStderr(), format, args...) }
	note("Backed up %d devices and %d users in %d files. It holds keys: keep it as you keep those.\n", m.Devices, m.Users, len(m.Files))
	if m.Engine == "postgres" {
		note("The database is not in it. Make a dump of that too, now:\n  pg_dump --format=custom --file=gateway.dump %s\n", "\"$DATABASE_URL\"")
	}
	return nil
}

// createBackup returns where a backup is written to, a folder for work that is on
// the same disk, and what makes the file appear. The caller removes the folder.
func createBackup(cmd *cobra.Command, to string) (out io.Writer, work string, commit func() error, err error) {
	if to == "-" {
		if f, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, "", nil, usageError{errors.New("the backup is not for a terminal: name a file, or redirect the output")}
		}
		if work, err = os.MkdirTemp("", "socketxp-backup-"); err != nil {
			return nil, "", nil, err
		}
		buffered := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<20)
		return buffered, work, buffered.Flush, nil
	}
	if _, err := os.Lstat(to); err == nil {
		return nil, "", nil, socketxp.Errorf(socketxp.CodeConflict, "%s is there already", to).WithHint("name another file, or remove it")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil, err
	}
	dir := filepath.Dir(to)
	if work, err = os.MkdirTemp(dir, ".socketxp-backup-"); err != nil {
		return nil, "", nil, err
	}
	f, err := os.OpenFile(filepath.Join(work, "backup"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator names the folder
	if err != nil {
		return nil, "", nil, errors.Join(err, os.RemoveAll(work))
	}
	return f, work, func() error {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
		// Link, not rename: it replaces nothing that came there meanwhile.
		if err := os.Link(f.Name(), to); err != nil {
			return err
		}
		d, err := os.Open(dir) //nolint:gosec // the operator names the folder
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	}, nil
}

func verifyBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify FILE|-", Short: "Say whether a backup is whole and can be restored by this program", Args: usageArgs(cobra.ExactArgs(1)),
		Example: `  socketxp-gateway admin backup verify gateway.tar.gz
  age -d gateway.tar.gz.age | socketxp-gateway admin backup verify -`,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		in, err := openBackup(cmd, args[0])
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		work, err := os.MkdirTemp("", "socketxp-verify-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
		p := &progress{}
		m, err := gateway.ReadBackup(cmd.Context(), in, func(m gateway.Manifest) error {
			p = newProgress(cmd, "Reading", m.Size())
			return nil
		}, func(f gateway.BackupFile) (io.WriteCloser, error) {
			if f.Name == gateway.DatabaseInBackup {
				return os.OpenFile(filepath.Join(work, "gateway.db"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // a folder of our own
			}
			return discard{}, nil
		}, func(n int64) { p.show(n) })
		if err != nil {
			return err
		}
		p.end()
		if m.Engine == "sqlite" {
			if _, err := store.Inspect(cmd.Context(), "sqlite:"+filepath.Join(work, "gateway.db"), true); err != nil {
				return fmt.Errorf("the database in the backup: %w", err)
			}
		}
		return describeBackup(cmd.OutOrStdout(), "The backup is good.", m)
	}
	return cmd
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

func describeBackup(w io.Writer, first string, m gateway.Manifest) error {
	_, err := fmt.Fprintf(w, "%s\nMade %s by version %s, of the gateway %s: %s with schema %d, %d devices, %d users, %d files.\n",
		first, m.MadeAt.Format(time.RFC3339), clean(m.Program), clean(m.GatewayID), m.Engine, m.Schema, m.Devices, m.Users, len(m.Files))
	if err == nil && m.Engine == "postgres" {
		_, err = fmt.Fprintln(w, "The database is not in it, but in the dump that was made with it.")
	}
	return err
}

// clean makes text from a backup fit for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 64)])
}

func openBackup(cmd *cobra.Command, from string) (io.ReadCloser, error) {
	if from == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(from) //nolint:gosec // the operator names the file
}

// progress shows on a terminal how far a long work is.
type progress struct {
	w     io.Writer // nil for none
	what  string
	total int64
	shown int64
}

func newProgress(cmd *cobra.Command, what string, total int64) *progress {
	p := &progress{what: what, total: max(total, 1), shown: -1}
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = f
	}
	return p
}

func (p *progress) show(done int64) {
	if percent := done * 100 / max(p.total, 1); p.w != nil && percent != p.shown {
		p.shown = percent
		_, _ = fmt.Fprintf(p.w, "\r%s: %d %% of %d MiB", p.what, percent, p.total>>20)
	}
}

func (p *progress) end() {
	if p.w != nil {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func restoreCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "restore FILE|-", Short: "Make a data folder of a backup", Args: usageArgs(cobra.ExactArgs(1)),
		Long: `Puts a backup in the data folder, which must be empty, while no gateway runs in it.
Everything is read and checked before anything is touched.

The backup can't know what was revoked after it was made. So all tokens from before
it are good for nothing until an owner of their account confirms them, and people
have to sign in again; a new key signs from now on. Devices keep their keys and
connect by themselves.

With --force what is in the folder is moved aside, into a folder in it; and if there
is a newer database among it, what that says was revoked or disabled since the backup
is revoked and disabled in the restored one, too.

With PostgreSQL restore the dump first (pg_restore), then run this with --database.`,
		Example: `  socketxp-gateway admin restore gateway.tar.gz --data-dir /var/lib/socketxp-gateway
  age -d gateway.tar.gz.age | socketxp-gateway admin restore - --force`,
	}
	cmd.Flags().BoolVar(&force, "force", false, "move what is in the data folder aside")
	return withConfig(cmd, func(cmd *cobra.Command, args []string, cfg gateway.Config) error {
		return restore(cmd, cfg, args[0], force)
	})
}

// restored is what is told of a restore at its end.
type restored struct {
	epoch   socketxp.Epoch
	carried *store.Carried // nil: there was no database to carry over from
	unread  error          // why what was there could not be read
}

func restore(cmd *cobra.Command, cfg gateway.Config, from string, force bool) error {
	in, err := openBackup(cmd, from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	p := &progress{}
	var done restored
	m, aside, err := gateway.Restore(cmd.Context(), in, gateway.RestoreOptions{
		Dir: cfg.DataDir, Force: force,
		Begin: func(m gateway.Manifest) error {
			p = newProgress(cmd, "Reading", m.Size())
			if (m.Engine == "sqlite") != (cfg.Database == "") {
				return socketxp.Errorf(socketxp.CodeConflict, "the backup is of a gateway on %s, and the configuration names another kind of database", m.Engine).
					WithHint("with PostgreSQL give --database postgres://…, with SQLite none")
			}
			return nil
		},
		Prepare: func(m gateway.Manifest, staged, old string) (err error) {
			p.end()
			done, err = prepareRestored(cmd.Context(), cfg, m, staged, old)
			return err
		},
		Progress: func(n int64) { p.show(n) },
	})
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if err := describeBackup(out, "The data folder "+cfg.DataDir+" is restored.", m); err != nil {
		return err
	}
	if aside != "" {
		_, _ = fmt.Fprintf(out, "What was there is in %s; remove it when you need it no more: it holds keys.\n", aside)
	}
	for _, f := range m.Files {
		if name := gateway.RestoredName(f.Name); name != "restored-"+f.Name {
			_, _ = fmt.Fprintf(out, "%s was not in the data folder; it is now: set --tls-cert and --tls-key to it, or to where you have it.\n", name)
		}
	}
	return done.tell(out, m)
}

// prepareRestored checks the database, and takes from it what a backup must not
// bring back.
func prepareRestored(ctx context.Context, cfg gateway.Config, m gateway.Manifest, staged, old string) (done restored, err error) {
	url := cfg.Database
	if m.Engine == "sqlite" {
		url = "sqlite:" + filepath.Join(staged, "gateway.db")
	}
	i, err := store.Inspect(ctx, url, true)
	if errors.Is(err, store.ErrEmpty) && m.Engine == "postgres" {
		return done, socketxp.Errorf(socketxp.CodeNotFound, "the restored database: %v", err).WithHint("restore the dump that was made with this backup first (pg_restore)")
	}
	if err != nil {
		return done, fmt.Errorf("the restored database: %w", err)
	}
	if i.GatewayID != m.GatewayID {
		return done, socketxp.Errorf(socketxp.CodeConflict, "the database is of the gateway %s, and the backup of %s", clean(i.GatewayID), clean(m.GatewayID)).
			WithHint("restore the dump that was made with this backup")
	}
	db, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	at, err := db.RaiseClock(ctx, now())
	if err != nil {
		return done, err
	}
	console := socketxp.Actor{Kind: socketxp.KindConsole, RemoteAddr: "console"}
	entry := socketxp.AuditEntry{At: at, Actor: console, Action: "gateway.restore", ObjectKind: "gateway", ObjectID: m.GatewayID, Detail: "from the backup of " + m.MadeAt.Format(time.RFC3339)}
	if done.epoch, err = db.BeginEpoch(ctx, at, entry); err != nil {
		return done, err
	}
	if old != "" && m.Engine == "sqlite" {
		entry.Action = "gateway.carry-over"
		done.carried, done.unread = carryOver(ctx, db, "sqlite:"+old, entry)
	}
	_, err = gateway.RotateSigningKey(ctx, staged, db, gateway.SigningKeyRotation{
		At: at, Overlap: socketxp.LongestKeyOverlap, Entry: socketxp.AuditEntry{Actor: console},
	})
	return done, err
}

func carryOver(ctx context.Context, db *store.DB, old string, entry socketxp.AuditEntry) (*store.Carried, error) {
	i, err := store.Inspect(ctx, old, false)
	if err != nil {
		return nil, err
	}
	if i.GatewayID != entry.ObjectID {
		return nil, fmt.Errorf("it is of another gateway, %s", clean(i.GatewayID))
	}
	carried, err := db.CarryOver(ctx, old, entry)
	return &carried, err
}

// tell says what the restore did besides putting files in their place, and what it
// can't know.
func (r restored) tell(w io.Writer, m gateway.Manifest) (err error) {
	say := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	say("Tokens from before, good for nothing until an owner confirms each: %d. People have to sign in again.\n", r.epoch.Tokens)
	since := m.MadeAt.Format(time.RFC3339)
	if r.unread != nil {
		say("Nothing was carried over from the database that was there: %v.\n", r.unread)
	}
	if c := r.carried; c != nil && r.unread == nil {
		say("Carried over from the database that was there: %d tokens revoked, %d signing keys withdrawn, %d devices and %d users disabled%s.\n",
			c.Tokens, c.Keys, len(c.Devices), len(c.Users), list(append(append([]string{}, c.Devices...), c.Users...)))
		say("Devices in quarantine since then: %d%s; with the keys that they have changed to: %d%s.\n",
			len(c.Quarantined), list(c.Quarantined), len(c.Rekeyed), list(c.Rekeyed))
		say("Devices that were deleted since %s are back: %d%s.\n", since, len(c.Deleted), list(c.Deleted))
		say("Users whose password was changed since then have the one of before: %d%s.\n", len(c.Passwords), list(c.Passwords))
		return err
	}
	say("What happened after %s is not known any more. Check yourself:\n", since)
	say("  devices that were deleted or disabled since then can connect again\n")
	say("  devices that were put in quarantine since then are out of it\n")
	say("  devices that have changed their keys since then are unknown by the new ones, and known by the old: delete those devices and log them in anew\n")
	say("  users who were disabled or removed since then, and passwords of before, are good again\n")
	say("  a signing key that was found to be compromised since then has to be withdrawn again\n")
	say("  devices that were registered since then are unknown and have to log in again\n")
	return err
}

// list is names for the end of a line, not too many of them.
func list(names []string) string {
	const most = 20
	switch n := len(names); {
	case n == 0:
		return ""
	case n > most:
		return " (" + strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more)", n-most)
	}
	return " (" + strings.Join(names, ", ") + ")"
}
