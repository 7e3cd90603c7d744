//go:build unix

// Package pgtest starts throwaway PostgreSQL servers for tests. It is no part of
// any program; it does not import testing, so that a test's main and a script's
// can use it alike.
package pgtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// ErrNotInstalled is what Start fails with on a machine that has no PostgreSQL.
var ErrNotInstalled = errors.New("PostgreSQL is not installed (apt-get install postgresql)")

// Start makes a cluster in dir and starts a server for it that listens on a Unix
// socket in dir alone. The url is of its superuser and the database "postgres".
//
// dir must be empty, its path short (a socket's has at most 107 bytes), and the
// caller's to remove after stop. As root, who may not run PostgreSQL, dir is given
// to the user postgres or else nobody. The server ends with stop, which waits for
// it and may be called more than once, or (on Linux) with the calling process,
// however that ends. Nothing it keeps outlives a crash: it does not sync.
func Start(ctx context.Context, dir string) (url string, stop func() error, err error) {
	bin, err := binaries()
	if err != nil {
		return "", nil, err
	}
	attr, err := owner(dir)
	if err != nil {
		return "", nil, err
	}
	data := filepath.Join(dir, "data")
	run := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = dir // its user may not be allowed to see ours
		cmd.SysProcAttr = attr
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
		return cmd
	}
	initdb := run(exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "--no-instructions")) //nolint:gosec // a fixed path
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	server := run(exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, //nolint:gosec,noctx // a fixed path; it outlives the start, and stop ends it
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
		"-c", "shared_buffers=32MB", "-c", "max_connections=200", "-c", "autovacuum=off"))
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log

	ended := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// The kernel ends the server when the thread that started it ends: it must be
		// one that lives as long as the process or the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			ended <- server.Wait()
		}
	}()
	if err := <-started; err != nil {
		return "", nil, err
	}
	stop = sync.OnceValue(func() error {
		_ = server.Process.Signal(syscall.SIGINT) // fast shutdown; it may have ended by itself
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Second):
			return errors.Join(errors.New("PostgreSQL did not stop within 10 s"), server.Process.Kill(), <-ended)
		}
	})
	url = urlOf(dir, "postgres")
	for {
		if err = ping(ctx, url); err == nil {
			return url, stop, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err = <-ended:
			ended <- err
			return "", nil, fmt.Errorf("PostgreSQL ended at its start: %w: %s", err, log.String())
		case <-ctx.Done():
			return "", nil, errors.Join(ctx.Err(), err, stop())
		}
	}
}

// NewDatabase creates an empty database on the server at url and returns the URL
// of it. name is used as it is: letters, digits and _.
func NewDatabase(ctx context.Context, server, name string) (string, error) {
	db, err := sql.Open("pgx", server)
	if err != nil {
		return "", err
	}
	_, err = db.ExecContext(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 ENCODING 'UTF8'")
	if err = errors.Join(err, db.Close()); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// DropDatabase removes a database that NewDatabase made, whoever is connected to it.
func DropDatabase(ctx context.Context, server, name string) error {
	db, err := sql.Open("pgx", server)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return errors.Join(err, db.Close())
}

func urlOf(dir, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: url.Values{"host": {dir}}.Encode()}
	return u.String()
}

func ping(ctx context.Context, url string) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	return errors.Join(db.PingContext(ctx), db.Close())
}

// binaries returns the folder of the newest server: Debian keeps the server's
// programs out of PATH, one folder for each version.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return versionOf(a) - versionOf(b) })), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", ErrNotInstalled
	}
	return filepath.Dir(path), nil
}

func versionOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 for a name that is no number
	return n
}

// owner returns the attributes of a process that may run PostgreSQL in dir.
func owner(dir string) (*syscall.SysProcAttr, error) {
	attr := endWithParent()
	if os.Geteuid() != 0 {
		return attr, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
		return nil, err
	}
	if info, err := os.Stat(filepath.Dir(dir)); err == nil && info.Mode()&fs.FileMode(0o001) == 0 {
		return nil, fmt.Errorf("%s can't be entered by the user %s, who is to run PostgreSQL in it", filepath.Dir(dir), account.Username)
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}
