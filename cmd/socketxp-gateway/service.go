package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// service is the service manager that started the program, as sd_notify(3) has it;
// nobody, if NOTIFY_SOCKET is not set.
type service struct{ log *slog.Logger }

func newService(log *slog.Logger) *service { return &service{log} }

// tell sends assignments, which it does not outlive by an error: the manager finds
// out by itself what it does not hear.
func (s *service) tell(assignments ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		s.log.Warn("the service manager was not told", "what", assignments[0], "error", err)
	}
}

// reloading says that the files are being read again; Type=notify-reload wants the
// time with it.
func (s *service) reloading() {
	s.tell(daemon.SdNotifyReloading, daemon.SdNotifyMonotonicUsec())
}

// watch tells the manager twice within each WatchdogSec that the gateway is well, as
// long as health says so, and its status when that changes. It returns when ctx is
// done, at once if nobody watches.
func (s *service) watch(ctx context.Context, well string, health func(context.Context) (curable bool, err error)) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the watchdog's interval is not valid", "error", err)
	}
	if every <= 0 || err != nil {
		return
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	status := well
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		curable, err := health(ctx)
		if ctx.Err() != nil {
			return
		}
		now := well
		if err != nil {
			now = "not well: " + err.Error()
			s.log.Error("the gateway is not well", "error", err, "restart_helps", curable)
		}
		var state []string
		if err == nil || !curable {
			state = append(state, daemon.SdNotifyWatchdog)
		}
		if now != status {
			status = now
			state = append(state, "STATUS="+strings.ReplaceAll(now, "\n", " "))
		}
		if len(state) > 0 {
			s.tell(state...)
		}
	}
}
