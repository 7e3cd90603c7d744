package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"socketxp/internal/store/pgtest"
)

// postgres is the one throwaway server of this test binary; it starts with the
// first script that wants it.
var postgres struct {
	once sync.Once
	dir  string
	url  string
	stop func() error
	err  error
}

func postgresDatabase(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	postgres.once.Do(func() {
		if postgres.dir, postgres.err = os.MkdirTemp("", "pg"); postgres.err == nil {
			postgres.url, postgres.stop, postgres.err = pgtest.Start(ctx, postgres.dir)
		}
	})
	if postgres.err != nil {
		return "", postgres.err
	}
	return pgtest.NewDatabase(ctx, postgres.url, name)
}

func stopPostgres() {
	var err error
	if postgres.stop != nil {
		err = postgres.stop()
	}
	if err = errors.Join(err, os.RemoveAll(postgres.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
	}
}

// postgresPort serves the server, which has a Unix socket only, on a loopback
// port: what a device would publish.
func postgresPort(s *stage) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				server, err := net.Dial("unix", filepath.Join(postgres.dir, ".s.PGSQL.5432"))
				if err != nil {
					return
				}
				defer func() { _ = server.Close() }()
				go func() {
					_, _ = io.Copy(server, c)
					_ = server.Close()
				}()
				_, _ = io.Copy(c, server)
			}()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
