package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"socketxp"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

func adminCommand() *cobra.Command {
	cmd := group("admin", "Work on the gateway's database from its own machine",
		createUserCommand(), listUsersCommand(),
		userCommand("disable-user", "Keep a user out: no sign-in, and no token of theirs works",
			func(ctx context.Context, db *store.DB, u socketxp.User, entry socketxp.AuditEntry) (string, error) {
				return "disabled", db.SetUserDisabled(ctx, u.ID, entry.At, entry)
			}),
		userCommand("enable-user", "Let a disabled user in again",
			func(ctx context.Context, db *store.DB, u socketxp.User, entry socketxp.AuditEntry) (string, error) {
				return "enabled", db.SetUserDisabled(ctx, u.ID, time.Time{}, entry)
			}),
		setPasswordCommand(), rotateSigningKeyCommand(), rotateTLSKeyCommand(), backupCommand(), restoreCommand(), doctorCommand())
	cmd.Long = `These commands work on the database directly, also while the gateway runs: it takes
them into account at once for what is new, and within 30 s for what is open.`
	return cmd
}

// withConfig adds the settings to cmd and runs do with what they come to.
func withConfig(cmd *cobra.Command, do func(cmd *cobra.Command, args []string, cfg gateway.Config) error) *cobra.Command {
	s := newSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(os.Environ()); err != nil {
			return err
		}
		return do(cmd, args, s.config)
	}
	return cmd
}

// withStore adds the settings to cmd and runs do on the open database.
func withStore(cmd *cobra.Command, do func(ctx context.Context, cmd *cobra.Command, args []string, db *store.DB) error) *cobra.Command {
	return withConfig(cmd, func(cmd *cobra.Command, args []string, cfg gateway.Config) error {
		return onStore(cmd, cfg, func(ctx context.Context, db *store.DB) error { return do(ctx, cmd, args, db) })
	})
}

// onStore runs do on the database that cfg names.
func onStore(cmd *cobra.Command, cfg gateway.Config, do func(ctx context.Context, db *store.DB) error) (err error) {
	db, err := openStore(cmd.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(cmd.Context(), db)
}

// consoleEntry is the audit entry of an act at the console.
func consoleEntry(accountID, action string, u socketxp.User, now time.Time) socketxp.AuditEntry {
	return socketxp.AuditEntry{
		AccountID: accountID, At: now, Action: action,
		Actor:      socketxp.Actor{Kind: socketxp.KindConsole, RemoteAddr: "console"},
		ObjectKind: "user", ObjectID: u.ID, ObjectName: u.Email,
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func createUserCommand() *cobra.Command {
	var email, name, account, passwordFile string
	cmd := &cobra.Command{
		Use: "create-user", Short: "Make a user and an account that the user owns", Args: usageArgs(cobra.NoArgs),
		Example: `  socketxp-gateway admin create-user --email you@example.com --account home
  pass show gateway | socketxp-gateway admin create-user --email you@example.com --account home --password-file -`,
	}
	cmd.Flags().StringVar(&email, "email", "", "email address, with which the user signs in")
	cmd.Flags().StringVar(&name, "name", "", "the user's name")
	cmd.Flags().StringVar(&account, "account", "", "name of the account")
	addPasswordFlag(cmd, &passwordFile)
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if email == "" || account == "" {
			return usageError{errors.New("--email and --account are needed")}
		}
		return nil
	}
	return withStore(cmd, func(ctx context.Context, cmd *cobra.Command, _ []string, db *store.DB) error {
		email, err := socketxp.NormalizeEmail(email)
		if err != nil {
			return err
		}
		if account = strings.TrimSpace(account); account == "" {
			return socketxp.Errorf(socketxp.CodeInvalid, "the account has no name")
		}
		if err := errors.Join(socketxp.CheckDisplayText("name", name, 128), socketxp.CheckDisplayText("account's name", account, 128)); err != nil {
			return err
		}
		hash, err := newPasswordHash(cmd, passwordFile, email)
		if err != nil {
			return err
		}
		at := now()
		a := socketxp.Account{
			ID: socketxp.NewID(at), Name: account, CreatedAt: at,
			BasicTokens: true, BasicLife: socketxp.DefaultBasicLife, DeviceQuota: socketxp.DefaultDeviceQuota,
		}
		u := socketxp.User{ID: socketxp.NewID(at), Email: email, Name: name, PasswordHash: hash, CreatedAt: at}
		err = db.CreateAccount(ctx, a, u, false, consoleEntry(a.ID, "account.create", u, at))
		if errors.Is(err, socketxp.ErrConflict) {
			return socketxp.Errorf(socketxp.CodeConflict, "there is a user %s already", email).WithHint("socketxp-gateway admin list-users")
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "User %s owns the new account %s.\n", u.Email, a.Name)
		return err
	})
}

func listUsersCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list-users", Short: "List the users", Args: usageArgs(cobra.NoArgs)}
	return withStore(cmd, func(ctx context.Context, cmd *cobra.Command, _ []string, db *store.DB) error {
		users, err := db.Users(ctx)
		if err != nil {
			return err
		}
		if len(users) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "There are no users yet.")
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "EMAIL\tNAME\tSINCE\tSTATE")
		for _, u := range users {
			state := "active"
			if !u.DisabledAt.IsZero() {
				state = "disabled since " + u.DisabledAt.Format(time.DateOnly)
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", u.Email, u.Name, u.CreatedAt.Format(time.DateOnly), state)
		}
		return w.Flush()
	})
}

// userCommand is a command on one user, named by email address.
func userCommand(use, short string, do func(context.Context, *store.DB, socketxp.User, socketxp.AuditEntry) (done string, err error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " EMAIL", Short: short, Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  socketxp-gateway admin " + use + " you@example.com",
	}
	return withStore(cmd, func(ctx context.Context, cmd *cobra.Command, args []string, db *store.DB) error {
		u, err := findUser(ctx, db, args[0])
		if err != nil {
			return err
		}
		done, err := do(ctx, db, u, consoleEntry("", strings.Replace(use, "-", ".", 1), u, now()))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "User %s is %s.\n", u.Email, done)
		return err
	})
}

func setPasswordCommand() *cobra.Command {
	var passwordFile string
	cmd := &cobra.Command{
		Use: "set-password EMAIL", Short: "Set a user's password and end their sign-ins", Args: usageArgs(cobra.ExactArgs(1)),
		Example: "  socketxp-gateway admin set-password you@example.com",
	}
	addPasswordFlag(cmd, &passwordFile)
	return withStore(cmd, func(ctx context.Context, cmd *cobra.Command, args []string, db *store.DB) error {
		u, err := findUser(ctx, db, args[0])
		if err != nil {
			return err
		}
		hash, err := newPasswordHash(cmd, passwordFile, u.Email)
		if err != nil {
			return err
		}
		if err := db.SetPassword(ctx, u.ID, "", hash, consoleEntry("", "user.set-password", u, now())); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "The password of %s is set; all their sign-ins have ended.\n", u.Email)
		return err
	})
}

func findUser(ctx context.Context, db *store.DB, email string) (socketxp.User, error) {
	email, err := socketxp.NormalizeEmail(email)
	if err != nil {
		return socketxp.User{}, err
	}
	u, err := db.UserByEmail(ctx, email)
	if errors.Is(err, socketxp.ErrNotFound) {
		return u, socketxp.Errorf(socketxp.CodeNotFound, "there is no user %s", email).WithHint("socketxp-gateway admin list-users")
	}
	return u, err
}

func addPasswordFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVar(file, "password-file", "", "file with the password on its first line, - for standard input (default: asks)")
}

// newPasswordHash gets a new password and returns its hash. A password is never an
// argument: those show in the process list.
func newPasswordHash(cmd *cobra.Command, file, email string) (string, error) {
	password, err := readPassword(cmd, file)
	if err != nil {
		return "", err
	}
	if err := socketxp.CheckPassword(password, email); err != nil {
		return "", err
	}
	return gateway.HashPassword(password)
}

func readPassword(cmd *cobra.Command, file string) (string, error) {
	switch {
	case file == "-":
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxConfig)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return strings.TrimRight(line, "\r\n"), nil
	case file != "":
		data, err := readBounded(file)
		if err != nil {
			return "", err
		}
		line, _, _ := strings.Cut(string(data), "\n")
		return strings.TrimRight(line, "\r"), nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", usageError{socketxp.Errorf(socketxp.CodeInvalid, "there is no terminal to ask for the password").
			WithHint("give it with --password-file FILE, or - for standard input")}
	}
	ask := func(what string) (string, error) {
		_, _ = fmt.Fprint(cmd.ErrOrStderr(), what)
		b, err := term.ReadPassword(int(in.Fd()))
		_, _ = fmt.Fprintln(cmd.ErrOrStderr())
		return string(b), err
	}
	password, err := ask("New password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("The same again: ")
	if err != nil {
		return "", err
	}
	if password != again {
		return "", socketxp.Errorf(socketxp.CodeInvalid, "the two are not the same")
	}
	return password, nil
}
