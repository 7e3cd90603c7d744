package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/agent"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses.
const (
	statusDone = iota
	statusFailed
	statusUsage
	statusNotRegistered
	statusRefused     // by the gateway, and asking again won't help
	statusUnreachable // the gateway
)

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	token          string // of SOCKETXP_AUTHTOKEN
	apiToken       string // of SOCKETXP_API_TOKEN

	workDir        string
	profile        string // named by --profile
	quiet, verbose bool
	about          string // begins what is told of one of several things

	mu      sync.Mutex // guards the following
	trouble string     // lasts, and was told
	failure string     // the last one of a single connection that was told
	failed  time.Time  // when
}

// usageError is a mistake in how the program was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// silent is a failure of which everything has been said.
type silent struct{}

func (silent) Error() string { return "" }

// exitStatus is the exit status of a program that ran in this one's place, which
// has said all there is to say.
type exitStatus int

func (exitStatus) Error() string { return "" }
func (exitStatus) Unwrap() error { return silent{} }

// run is the program; it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, token: takeEnv("SOCKETXP_AUTHTOKEN"), apiToken: takeEnv("SOCKETXP_API_TOKEN")}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return statusDone
	}
	if !errors.Is(err, silent{}) {
		what := ""
		if path := strings.TrimPrefix(cmd.CommandPath(), root.Name()); path != "" {
			what = path[1:] + ": "
		}
		a.complain(what+err.Error(), err)
	}
	return status(err)
}

// status returns the exit status that tells of err.
func status(err error) int {
	var no *agent.RefusedError
	var theirs exitStatus
	switch {
	case errors.As(err, &theirs):
		return int(theirs)
	case errors.As(err, new(usageError)):
		return statusUsage
	case errors.As(err, new(*agent.NotRegisteredError)), errors.As(err, new(notSignedIn)):
		return statusNotRegistered
	case errors.As(err, &no) && !no.Passing():
		return statusRefused
	case errors.As(err, new(*agent.UnreachableError)):
		return statusUnreachable
	}
	return statusFailed
}

// complain prints what went wrong and, if err knows, what to do.
func (a *app) complain(text string, err error) {
	_, _ = fmt.Fprintf(a.stderr, "socketxp: %s\n", agent.Printable(a.about+text))
	var e *socketxp.Error
	if errors.As(err, &e) && e.Hint != "" {
		a.hint(e.Hint)
	}
}

func (a *app) hint(text string) { _, _ = fmt.Fprintf(a.stderr, "hint: %s\n", agent.Printable(text)) }

// warn tells of something that is worth knowing and no failure.
func (a *app) warn(format string, args ...any) {
	if !a.quiet {
		a.complain(fmt.Sprintf(format, args...), nil)
	}
}

// warnOf is warn for an error that may know what to do.
func (a *app) warnOf(err error) {
	if !a.quiet {
		a.complain(err.Error(), err)
	}
}

// say prints a line of success.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		_, _ = fmt.Fprintf(a.stdout, format+"\n", args...)
	}
}

// problem tells of trouble that the program goes on through: what lasts (wait is not
// 0) once until well, the failure of a single connection once in 10 s.
func (a *app) problem(err error, wait time.Duration) {
	text := err.Error()
	if errors.As(err, new(*agent.RefusedError)) {
		text = "the gateway refused: " + text
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if wait == 0 {
		if text != a.failure || time.Since(a.failed) > 10*time.Second {
			a.failure, a.failed = text, time.Now()
			a.complain(text, err)
		}
		return
	}
	if text == a.trouble {
		return
	}
	a.trouble = text
	again := "; trying again"
	if wait >= time.Minute {
		again += " in " + wait.Round(time.Second).String()
	}
	a.complain(text+again, err)
}

// well ends a time of trouble; it reports whether there was any.
func (a *app) well() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	had := a.trouble != ""
	a.trouble = ""
	return had
}

func (a *app) log() *slog.Logger {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}

// dir opens the work folder: the flag's, the environment's, the config file's, or
// the default.
func (a *app) dir(configured string) (*agent.Dir, error) {
	path, err := a.dirPath(configured)
	if err != nil {
		return nil, err
	}
	return agent.OpenDir(path)
}

func (a *app) dirPath(configured string) (string, error) {
	if path := firstOf(a.workDir, os.Getenv("SOCKETXP_WORK_DIR"), configured); path != "" {
		return path, nil
	}
	path, _, err := agent.DefaultDir()
	return path, err
}

// dirOfOwn is dir for commands that begin something; they say where the state is if
// it is not where one would look.
func (a *app) dirOfOwn(configured string) (*agent.Dir, error) {
	d, err := a.dir(configured)
	if err != nil {
		return nil, err
	}
	if path, own, err := agent.DefaultDir(); err == nil && own && path == d.Path() {
		a.warn("not run by root: the state is in %s", path)
	}
	return d, nil
}

func (a *app) rootCommand() *cobra.Command {
	var config string
	root := &cobra.Command{
		Use:   "socketxp",
		Short: "Reach devices behind NAT and firewalls",
		Long: `The SocketXP agent. On a device it dials out to the gateway and publishes tunnels;
on a laptop, in IoT slave mode, it opens a local port that leads to one.`,
		Example: `  # on the device: register it, once, then publish its ssh server
  socketxp login - --iot-device-name sensor12345 --iot-device-group temp-sensor
  socketxp connect tcp://localhost:22

  # on the laptop, with an access token in SOCKETXP_AUTHTOKEN
  socketxp connect tcp://localhost:3000 --iot-slave \
      --peer-device-name sensor12345 --peer-device-port 22
  ssh -p 3000 pi@localhost

  # all tunnels of a config file
  socketxp --config /etc/socketxp/config.json

HTTPS_PROXY, or else ALL_PROXY, names a proxy on the way to the gateway: http://host:port, or
https:// for TLS with the proxy itself, with user:password@ before the host if need be. SOCKS
is not spoken. NO_PROXY names what is reached without.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not registered, or not signed in,
4 refused by the gateway, 5 can't reach the gateway. A device that is offline is a failure (1): it
may work later; what is refused (4) will be again.`,
		Args:          usageArgs(noArgs),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config == "" {
				return cmd.Help()
			}
			return a.runConfig(cmd.Context(), config)
		},
	}
	root.Flags().StringVar(&config, "config", "", "open all tunnels of this `FILE`, in the foreground")
	root.PersistentFlags().StringVar(&a.workDir, "work-dir", "", "the `FOLDER` of the agent's state (SOCKETXP_WORK_DIR)")
	root.PersistentFlags().StringVar(&a.profile, "profile", "", "the `NAME` of the gateway's profile, for what a person signs in for (SOCKETXP_PROFILE)")
	root.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "print errors only")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what happens to standard error")
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true // ours says more
	completeFlag(root, "profile", completeProfiles)
	root.AddCommand(a.loginCommand(), a.reloginCommand(), a.rotateKeyCommand(), a.connectCommand(), a.statusCommand(), a.tunnelCommand(), a.logoutCommand(),
		a.signInCommand(), a.signOutCommand(), a.whoAmICommand(), a.profileCommand(),
		a.doctorCommand(), a.sshCommand(), a.proxyCommand(), a.sshConfigCommand(), a.forwardCommand(),
		a.devicesCommand(), a.groupsCommand(), a.tokensCommand(), a.sessionsCommand(), a.eventsCommand(), a.auditCommand(),
		a.completionCommand(), a.versionCommand(), a.sftpCommand(), a.authorizedKeysCommand())
	return root
}

// flagError names the flag that may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return usage("see "+cmd.CommandPath()+" --help", "%v", err)
	}
	var known []string
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	hint := "see " + cmd.CommandPath() + " --help"
	if near := socketxp.Nearest(name, known); near != "" {
		hint = "did you mean --" + near + "?"
	}
	return usage(hint, "%v", err)
}

func usage(hint, format string, args ...any) error {
	return usageError{socketxp.Errorf(socketxp.CodeInvalid, format, args...).WithHint(hint)}
}

// noArgs names the command that may have been meant.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usage("see "+cmd.CommandPath()+" --help", "it takes no arguments")
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	hint := "see " + cmd.CommandPath() + " --help"
	if near := socketxp.Nearest(args[0], known); near != "" {
		hint = "did you mean " + cmd.CommandPath() + " " + near + "?"
	}
	return usage(hint, "unknown command %q", args[0])
}

// usageArgs makes a wrong number of arguments a mistake of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if err == nil || errors.As(err, new(usageError)) {
			return err
		}
		return usage("see "+cmd.CommandPath()+" --help", "%v", err)
	}
}

// alias lets flags be called by another name, too.
func alias(flags *pflag.FlagSet, names map[string]string) {
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if known, ok := names[name]; ok {
			name = known
		}
		return pflag.NormalizedName(name)
	})
}

// exclusive makes it a mistake to give more than one of these.
func exclusive(cmd *cobra.Command, names ...string) error {
	given := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !cmd.Flags().Changed(n) })
	if len(given) > 1 {
		return usage("give one of them", "--%s can't go together", strings.Join(given, " and --"))
	}
	return nil
}

// programVersion is the version that was built in, the module's, or "dev".
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
