package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// ConnectOptions configure an agent in master mode.
type ConnectOptions struct {
	Dir     *Dir
	Tunnels []Tunnel
	Version string
	Log     *slog.Logger // nil logs nothing
	// Connected is called when the gateway has accepted the control channel and knows
	// the tunnels, each time anew. Problem is called when it is not, or no longer,
	// and will be tried again after wait. Joined is called first if another agent
	// runs in the folder already, to which the tunnels were handed. They are called
	// one at a time; nil means nothing. Warning is for what is worth knowing and stops
	// nothing.
	Connected func()
	Problem   func(err error, wait time.Duration)
	Joined    func()
	Warning   func(err error)

	betterFirst time.Duration // 0: the default; tests shorten it
	// Tests have users with other home folders, and a program that those may run.
	lookup     func(name string) (account, error)
	executable string
}

func (o *ConnectOptions) withDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Connected == nil {
		o.Connected = func() {}
	}
	if o.Problem == nil {
		o.Problem = func(error, time.Duration) {}
	}
	if o.Joined == nil {
		o.Joined = func() {}
	}
	if o.Warning == nil {
		o.Warning = func(error) {}
	}
}

// Connect publishes the tunnels until ctx ends, which is no error. It goes on
// through every trouble with the gateway, a refusal included: a person may enable
// the device again. It fails at once if the device is not registered, and ends
// when it is logged out.
//
// One agent per work folder holds the control channel; a further one hands its
// tunnels over to the first and lives as long as that.
func Connect(ctx context.Context, o ConnectOptions) error {
	o.withDefaults()
	for tries := 0; ; tries++ {
		key, err := o.Dir.Key()
		if err != nil {
			return err
		}
		release, err := o.Dir.lock()
		if err == nil {
			defer release()
			return runDevice(ctx, key, o)
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		err = join(ctx, o)
		if !errors.Is(err, errNoAgent) || tries == joinTries {
			return err
		}
		// It is starting or ending just now.
		if !sleep(ctx, joinPause) {
			return nil
		}
	}
}

const (
	joinTries = 100
	joinPause = 100 * time.Millisecond
)

// device is the one agent of its work folder, while it runs.
type device struct {
	dir     *Dir
	key     DeviceKey
	gateway *gateway
	version string
	log     *slog.Logger
	options ConnectOptions
	tunnels *publications
	links   *links
	oneUse  *singleUseKeys

	// ctx ends with the agent. Stop ends it because the device was logged out.
	ctx  context.Context
	stop context.CancelCauseFunc

	leaving  sync.Mutex // one logout at a time; taken before mu
	changing sync.Mutex // one new key at a time; taken before mu
	// working are the changes of the key that the gateway has asked for.
	working sync.WaitGroup
	kicked  chan struct{} // has one in it when it is worth trying to connect at once
	// reportPace is used by the one reportChanges that runs.
	reportPace reportPace

	mu        sync.Mutex // guards the following, and key
	now       connection
	forgotten bool      // the key was wiped
	keyAsked  time.Time // when the gateway asked for another key

	// knowsMore has one in it when the gateway is known by other keys than it was told.
	knowsMore chan struct{}
}

// connection is how the agent stands with the gateway.
type connection struct {
	channel *deviceChannel // nil while not connected
	since   time.Time      // it is so
	trouble error          // why it is not connected; nil at first
	// turned is closed when something of this, or told of the channel, has changed.
	turned chan struct{}
}

// deviceChannel is a control channel that the gateway has welcomed.
type deviceChannel struct {
	conn *control.Conn
	// told is the tunnels' state that the gateway knows: the channel that is closed
	// when it changes.
	told      <-chan struct{}
	loggedOut chan struct{} // closed when the gateway has forgotten the device

	nonce      []byte               // for a change of the key; none if the gateway knows no such thing
	keyAnswers chan control.Message // has room for one
	end        context.CancelCauseFunc
	ended      <-chan struct{}
}

// errLoggedOut is how an agent ends whose device was logged out.
var errLoggedOut = &NotRegisteredError{socketxp.Errorf(socketxp.CodeDeviceUnknown, "this device was logged out")}

// newDevice returns an agent that does nothing yet. Its stop must be called.
func newDevice(ctx context.Context, key DeviceKey, o ConnectOptions) (*device, error) {
	gw, err := o.Dir.gateway(key.Gateway)
	if err != nil {
		return nil, err
	}
	gw.remember(o.Dir, o.Log)
	if o.betterFirst != 0 {
		gw.betterFirst = o.betterFirst
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if o.executable != "" {
		executable = o.executable
	}
	d := &device{
		dir: o.Dir, key: key, gateway: gw, version: o.Version, log: o.Log, options: o,
		now:       connection{since: time.Now(), turned: make(chan struct{})},
		knowsMore: make(chan struct{}, 1), kicked: make(chan struct{}, 1),
	}
	forwards := &sshForwards{device: d, places: make(chan struct{}, maxDeviceForwards)}
	d.tunnels = newPublications(func(t Tunnel) (*SSHServer, error) {
		return NewSSHServer(SSHConfig{
			HostKeyFile: o.Dir.file(sshHostKeyFile), Users: t.Users, Policy: t.Policy, Dial: forwards.dial,
			Log: o.Log, Version: o.Version, Executable: executable,
		})
	})
	d.ctx, d.stop = context.WithCancelCause(ctx)
	d.links = newLinks(d)
	d.oneUse = newSingleUseKeys(d, executable)
	if o.lookup != nil {
		d.oneUse.lookup = o.lookup
	}
	return d, nil
}

func runDevice(ctx context.Context, key DeviceKey, o ConnectOptions) error {
	d, err := newDevice(ctx, key, o)
	if err != nil {
		return err
	}
	defer d.stop(nil)
	if _, err := d.tunnels.add(d.ctx, o.Tunnels); err != nil {
		return err
	}
	listener, err := d.dir.listen()
	if err != nil {
		return err
	}
	if held, err := d.dir.sequence(key.ID); err == nil && held.machine != "" {
		if here := machineHash(machineIDFiles); here != "" && here != held.machine {
			o.Warning(movedMachine(d.dir))
		}
	}
	d.oneUse.cleanUp()
	var running sync.WaitGroup
	running.Go(func() { d.serveLocal(listener) })
	err = d.stayConnected()
	d.stop(nil)
	running.Wait()
	d.working.Wait()
	d.links.wait()
	d.oneUse.wait()
	return err
}

// stayConnected holds a control channel until the agent ends.
func (d *device) stayConnected() error {
	var tries backoff
	for {
		started := time.Now()
		err := errFault
		guard(d.log, "control channel", func() { err = d.serveChannel() })
		if cause := context.Cause(d.ctx); cause != nil {
			if cause == error(errLoggedOut) { //nolint:errorlint // this very cause
				return cause
			}
			return nil
		}
		wait, sooner := tries.after(err, time.Since(started))
		d.turn(nil, err)
		d.log.Debug("not connected", "err", err, "retry_in", wait.String())
		switch {
		case errors.As(err, new(*goAway)):
			wait = 0 // it was waited for on the old channel
		case errors.Is(err, errNewKey):
			wait = 0
		default:
			d.options.Problem(err, wait)
		}
		pause(d.ctx, wait, sooner, d.kicked)
	}
}

// turn records that the device is connected, or why it is not.
func (d *device) turn(c *deviceChannel, trouble error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if (d.now.channel == nil) != (c == nil) {
		d.now.since = time.Now()
	}
	d.now.channel, d.now.trouble = c, trouble
	d.wake()
}

// wake tells who waits for a change. The caller holds mu.
func (d *device) wake() {
	close(d.now.turned)
	d.now.turned = make(chan struct{})
}

func (d *device) connection() connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

// goAway says that the gateway asked the agent to open another channel.
type goAway struct{ message string }

func (e *goAway) Error() string { return "the gateway asked to connect anew: " + e.message }

// serveChannel opens a control channel and serves it until it is over. It never
// returns nil.
func (d *device) serveChannel() error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	defer cancel(nil)
	report, changed := d.report()
	conn, welcome, err := d.openAny(ctx, report)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	d.keep(welcome)
	c := &deviceChannel{
		conn: conn, told: changed, loggedOut: make(chan struct{}), nonce: welcome.Nonce, keyAnswers: make(chan control.Message, 1),
		end: cancel, ended: ctx.Done(),
	}
	d.turn(c, nil)
	d.log.Debug("connected", "gateway", d.gateway.addr.URL, "gateway_version", welcome.Gateway)
	d.options.Connected()

	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer cancel(nil)
	reporting.Go(func() { d.reportChanges(ctx, c, changed) })
	reporting.Go(func() {
		d.gateway.improve(ctx, d.keyNow().Key, func() { cancel(&goAway{"there is a better way to it"}) })
	})
	for {
		m, err := conn.Receive(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return unreachable(d.gateway.addr.URL, err)
		}
		switch m := m.(type) {
		case control.Offer:
			d.links.take(ctx, conn, m)
		case control.PlaceKey:
			d.oneUse.place(ctx, conn, m)
		case control.RemoveKey:
			d.oneUse.remove(ctx, conn, m)
		case control.Refused:
			return refused(m.Code, m.Message, m.Hint, m.RetryAfter)
		case control.KeyDue:
			d.keyIsDue()
		case control.KeyStaged, control.KeyRefused:
			select {
			case c.keyAnswers <- m:
			default: // nobody has asked
			}
		case control.GatewayKeys:
			d.keepPins(m.Pins)
		case control.GoAway:
			d.log.Debug("the gateway is going away", "retry_in_s", m.RetryAfter)
			move := time.AfterFunc(time.Duration(m.RetryAfter)*time.Second+jitter(2*firstBound), func() {
				cancel(&goAway{m.Message})
			})
			defer move.Stop()
		case control.LoggedOut:
			close(c.loggedOut)
			<-ctx.Done() // whoever asked for it ends the agent now
			return context.Cause(ctx)
		}
	}
}

// reportEvery is the shortest time between two reports of one channel: commands
// that come and go together are told together.
//
// Each is a write of the gateway's, which closes the channel of a device that reports
// too often (internal/control/SPEC.md, section 5). So reportsAtOnce may follow each
// other like that, and from then on there is one per reportRefill.
const (
	reportEvery   = time.Second
	reportsAtOnce = 10
	reportRefill  = 30 * time.Second
)

// reportPace says when a device may report again.
type reportPace struct {
	full time.Time // when all of reportsAtOnce are there again
}

// after returns how long to wait after a report at now.
func (p *reportPace) after(now time.Time) time.Duration {
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(reportRefill)
	return max(reportEvery, p.full.Sub(now)-(reportsAtOnce-1)*reportRefill)
}

// reportChanges tells the gateway the tunnels whenever they have changed.
func (d *device) reportChanges(ctx context.Context, c *deviceChannel, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-d.knowsMore:
		}
		var report control.Report
		report, changed = d.report()
		if c.conn.Send(ctx, report) != nil {
			return // Receive says why
		}
		d.mu.Lock()
		c.told = changed
		d.wake()
		d.mu.Unlock()
		if !sleep(ctx, d.reportPace.after(time.Now())) {
			return
		}
	}
}

// report returns what the gateway is to know of the device, and a channel that is
// closed when it is to be told anew.
func (d *device) report() (control.Report, <-chan struct{}) {
	r, changed := d.tunnels.report(d.version)
	d.mu.Lock()
	defer d.mu.Unlock()
	r.GatewayKnownBy = d.key.Gateway.KnownBy()
	return r, changed
}

// keepPins writes down by which keys the gateway is known from now on, and has it
// told that: only what is on the disk keeps the device from being locked out.
func (d *device) keepPins(announced []string) {
	known := d.gateway.announced(announced)
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.key.Gateway
	if d.forgotten || known == before {
		return
	}
	d.key.Gateway = known
	if err := d.dir.writeKey(d.key); err != nil {
		d.key.Gateway = before
		d.log.Warn("the gateway's announced key could not be written down", "err", err)
		return
	}
	d.log.Info("the gateway is known by other keys now", "keys", known.KnownBy())
	select {
	case d.knowsMore <- struct{}{}:
	default:
	}
}

// keep writes down what the gateway calls the device now, if that has changed.
func (d *device) keep(w control.Welcome) {
	d.keepPins(w.GatewayPins)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forgotten || w.DeviceID == d.key.ID && w.DeviceName == d.key.Name && w.DeviceGroup == d.key.Group {
		return
	}
	d.key.ID, d.key.Name, d.key.Group = w.DeviceID, w.DeviceName, w.DeviceGroup
	if err := d.dir.writeKey(d.key); err != nil {
		d.log.Warn("the device's new name could not be written down", "err", err)
	}
}

// published waits until the gateway knows all tunnels that are published now.
func (d *device) published(ctx context.Context) error {
	_, want := d.tunnels.report(d.version)
	for {
		d.mu.Lock()
		turned := d.now.turned
		var told <-chan struct{}
		if c := d.now.channel; c != nil {
			told = c.told
		}
		d.mu.Unlock()
		if told == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turned:
		case <-want: // changed again: what is told then holds these tunnels, too
			_, want = d.tunnels.report(d.version)
		}
	}
}

// logout has the gateway forget the device, wipes the key, and ends the agent. Told
// is why the gateway does not know, or nil.
func (d *device) logout(ctx context.Context) (told, err error) {
	d.leaving.Lock()
	defer d.leaving.Unlock()
	told = d.sayLogout(ctx)
	d.mu.Lock()
	d.forgotten = true
	err = d.dir.forget()
	d.mu.Unlock()
	d.stop(errLoggedOut)
	return told, err
}

// sayLogout asks the gateway to forget the device, and waits for its answer.
func (d *device) sayLogout(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	begun := d.connection()
	c := begun.channel
	switch {
	case c == nil && begun.trouble == nil:
		return errors.New("the agent is not connected yet")
	case c == nil:
		return begun.trouble
	}
	if err := c.conn.Send(ctx, control.Logout{}); err != nil {
		return err
	}
	for turned := begun.turned; ; {
		select {
		case <-c.loggedOut:
			return nil
		case <-ctx.Done():
			return errors.New("the gateway did not answer")
		case <-turned:
			now := d.connection()
			if turned = now.turned; now.channel != c {
				return now.trouble
			}
		}
	}
}

// forget wipes what makes this machine the device.
func (d *Dir) forget() error {
	return errors.Join(d.wipe(keyFile), d.wipe(nextKeyFile), d.wipe(sequenceFileName), d.wipe(authoritiesFile))
}

// Logout has the gateway forget the device, and wipes its key in any case. Told is
// nil, or why the gateway could not be told: then a person has to remove the
// device there. An agent that runs in the folder ends.
func Logout(ctx context.Context, dir *Dir, version string) (told, err error) {
	for tries := 0; ; tries++ {
		key, err := dir.Key()
		if err != nil {
			return nil, err
		}
		release, err := dir.lock()
		if err == nil {
			defer release()
			told = logoutAlone(ctx, dir, key, version)
			return told, dir.forget()
		}
		if !errors.Is(err, errLocked) {
			return nil, err
		}
		told, err = askLogout(ctx, dir)
		if !errors.Is(err, errNoAgent) || tries == joinTries {
			return told, err
		}
		if !sleep(ctx, joinPause) {
			return nil, ctx.Err()
		}
	}
}

// logoutAlone tells the gateway on a channel of its own.
func logoutAlone(ctx context.Context, dir *Dir, key DeviceKey, version string) error {
	gw, err := dir.gateway(key.Gateway)
	if err != nil {
		return err
	}
	gw.remember(dir, nil)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, _, err := dir.openDevice(ctx, gw, key, control.Report{Facts: facts(version), Tunnels: []control.ReportTunnel{}}, version)
	switch {
	case socketxp.CodeOf(err) == socketxp.CodeDeviceUnknown:
		return nil // which is what was wanted
	case err != nil:
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Send(ctx, control.Logout{}); err != nil {
		return err
	}
	for {
		m, err := conn.Receive(ctx)
		if err != nil {
			return unreachable(gw.addr.URL, err)
		}
		switch m := m.(type) {
		case control.LoggedOut:
			return nil
		case control.Refused:
			return refused(m.Code, m.Message, m.Hint, m.RetryAfter)
		}
	}
}
