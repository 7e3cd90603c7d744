package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"socketxp"
	"socketxp/internal/cluster"
	"socketxp/internal/gateway"
	"socketxp/internal/store"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Runs the gateway until it is told to stop (SIGINT or SIGTERM; a second one stops it at
once). It makes what it needs: data folder, database, signing key and certificate.
As long as there is no user it prints a one-time link at which the first owner is made.

Every flag is also an environment variable (SOCKETXP_LISTEN) and a key of the --config
file (listen); flags are stronger than the environment, which is stronger than the file.
SOCKETXP_DATABASE_FILE names a file that holds the value, and so for the others.
SIGHUP reads the certificate files again.`,
		Example: `  socketxp-gateway serve
  socketxp-gateway serve --listen :443 --public-url https://gateway.example.com
  socketxp-gateway serve --listen :443 --public-url https://gateway.example.com --acme-agree

  # by DNS, where nobody reaches port 80 or 443; the hook makes the TXT record
  socketxp-gateway serve --public-url https://gateway.example.com:8443 --acme-agree --acme-dns-hook /etc/socketxp/dns-hook

  socketxp-gateway serve --config /etc/socketxp/gateway.yaml --log-level debug`,
		Args: usageArgs(cobra.NoArgs),
	}
	s := newSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(os.Environ()); err != nil {
			return err
		}
		log, err := newLogger(cmd.ErrOrStderr(), s.config)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), s.config, log, cmd.OutOrStdout())
	}
	return cmd
}

// serve runs a gateway until ctx is done.
func serve(ctx context.Context, cfg gateway.Config, log *slog.Logger, console io.Writer) (err error) {
	if err := gateway.PrepareDataDir(cfg.DataDir); err != nil {
		return err
	}
	// Before the database is opened, which may change it for a newer program: the
	// gateway that runs would find it changed.
	lock, err := gateway.LockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	db, err := openStore(ctx, cfg, log)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	service := newService(log)
	var g *gateway.Gateway
	g, err = gateway.New(ctx, cfg, gateway.Deps{
		Store: db, Cluster: cluster.NewLocal(), Log: log, Version: programVersion(),
		DataDirLock: lock,
		Serving:     func() { service.tell(daemon.SdNotifyReady, "STATUS=serving "+g.Address().URL) },
	})
	if err != nil {
		return err
	}
	link, err := g.SetUpLink(ctx)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(console, "SocketXP gateway %s\nOpen %s\n", programVersion(), g.Address().URL)
	if pin := g.Address().Pin; pin != "" {
		_, _ = fmt.Fprintf(console, "Key  %s\n", pin)
	}
	if link != "" {
		_, _ = fmt.Fprintf(console, "\nNobody can sign in yet. Make the first owner at this link; it works once:\n  %s\nor without a browser:\n  socketxp-gateway admin create-user --email you@example.com --account home --data-dir %s\n\n", link, cfg.DataDir)
	}

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	reloads, end := context.WithCancel(ctx)
	defer end()
	go func() {
		for {
			select {
			case <-hup:
				service.reloading()
				if err := g.Reload(); err != nil {
					log.Error("the certificate was not read again", "error", err)
				} else {
					log.Info("the certificate was read again")
				}
				service.tell(daemon.SdNotifyReady)
			case <-reloads.Done():
				return
			}
		}
	}()
	stopping := context.AfterFunc(ctx, func() { service.tell(daemon.SdNotifyStopping, "STATUS=shutting down") })
	defer stopping()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		service.watch(reloads, "serving "+g.Address().URL, g.Health)
	}()
	err = g.Run(ctx)
	end()
	<-watched
	return err
}

// openStore opens the configured database.
func openStore(ctx context.Context, cfg gateway.Config, log *slog.Logger) (*store.DB, error) {
	if err := gateway.PrepareDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	url, err := databaseURL(cfg)
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, url, store.Options{Log: log})
}

// databaseURL is what cfg names, or the SQLite file in the data folder.
func databaseURL(cfg gateway.Config) (string, error) {
	if cfg.Database != "" {
		return cfg.Database, nil
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return "", err
	}
	return "sqlite:" + filepath.Join(dir, "gateway.db"), nil
}

// newLogger returns the logger that the configuration asks for.
func newLogger(w io.Writer, cfg gateway.Config) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, socketxp.Errorf(socketxp.CodeInvalid, "configuration: the log level is not debug, info, warn or error")
	}
	o := &slog.HandlerOptions{Level: level}
	format := cfg.LogFormat
	if format == "auto" {
		format = "json"
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			format = "text"
		}
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, socketxp.Errorf(socketxp.CodeInvalid, "configuration: the log format is not auto, text or json")
}
