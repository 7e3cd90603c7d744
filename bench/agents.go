package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"socketxp"
	"socketxp/internal/agent"
)

// census is how the agents of one process stand. Each is a line of its output, as
// JSON, whenever something has changed.
type census struct {
	Connected int // now
	Comings   int // how often one was let in, from the beginning
	Told      int // how often one was refused and told when to come again
	Away      int // how often one did not get that far
	// Early is how often one that was told when to come again planned to come sooner.
	Early int
}

func (c census) plus(other census) census {
	return census{c.Connected + other.Connected, c.Comings + other.Comings, c.Told + other.Told, c.Away + other.Away, c.Early + other.Early}
}

// crowd counts what its agents tell.
type crowd struct {
	mu  sync.Mutex // guards the following
	now census
}

func (c *crowd) count() census {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// agents is `bench role agents FOLDER FROM TO`: the agents with these numbers, whose
// work folders are in the folder, all in this process. SIGUSR1 cuts their connections.
func agents(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return flag.ErrHelp
	}
	from, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	to, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	cuts := make(chan os.Signal, 1)
	signal.Notify(cuts, unix.SIGUSR1)
	defer signal.Stop(cuts)
	var c crowd
	ended := make(chan error, to-from)
	for i := from; i < to; i++ {
		dir, err := agent.OpenDir(agentDir(args[0], i))
		if err != nil {
			return err
		}
		go func() { ended <- c.run(ctx, dir) }()
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	said := census{Connected: -1}
	for {
		select {
		case err := <-ended:
			if ctx.Err() == nil {
				return fmt.Errorf("an agent ended: %w", err)
			}
		case <-ctx.Done():
			return nil
		case <-cuts:
			if err := cutAll(); err != nil {
				return err
			}
		case <-tick.C:
			if now := c.count(); now != said {
				if err := json.NewEncoder(os.Stdout).Encode(now); err != nil {
					return err
				}
				said = now
			}
		}
	}
}

func agentDir(dir string, i int) string { return filepath.Join(dir, strconv.Itoa(i)) }

// run is one agent.
func (c *crowd) run(ctx context.Context, dir *agent.Dir) error {
	connected := false // its callbacks come one at a time
	return agent.Connect(ctx, agent.ConnectOptions{
		Dir: dir, Version: "1.0.0",
		Tunnels: []agent.Tunnel{{Destination: socketxp.Destination{Scheme: "tcp", Host: "localhost", Port: 22}}},
		Connected: func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now.Comings++
			if !connected {
				connected = true
				c.now.Connected++
			}
		},
		Problem: func(err error, wait time.Duration) {
			c.mu.Lock()
			defer c.mu.Unlock()
			var no *agent.RefusedError
			switch told := errors.As(err, &no); {
			case told:
				c.now.Told++
				if wait < no.RetryAfter {
					c.now.Early++
				}
			case !connected:
				c.now.Away++
			}
			if connected {
				connected = false
				c.now.Connected--
			}
		},
	})
}

// cutAll shuts down all connections of this process over IPv4, as a firewall does
// that is switched off and on.
func cutAll() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range fds {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			return err
		}
		if peer, err := unix.Getpeername(fd); err == nil {
			if _, ok := peer.(*unix.SockaddrInet4); ok {
				_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			}
		}
	}
	return nil
}
