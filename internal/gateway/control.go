package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
)

// channel is the gateway's end of one control channel, of a device or a visitor.
type channel struct {
	g      *Gateway
	conn   *control.Conn
	key    ed25519.PublicKey // proved by the handshake
	remote netip.Addr
	// ctx ends with the channel. Messages are sent under it and never under the
	// context of whoever asked for them: a send that is given up closes a channel.
	ctx context.Context
	end context.CancelFunc
	// proven gives back the channel's place among those that have not shown yet who
	// they are.
	proven func()
	// sleeper lets it wait for messages without a goroutine; nil if it can't.
	sleeper *sleeper
	// serve takes messages until the channel is over, or asleep: then it is called again
	// when it is woken.
	serve func() (asleep bool)

	dismissed sync.Once

	since   time.Time
	version int  // of the protocol, from Hello on
	device  bool // the role that it was welcomed in

	keysMu sync.Mutex // guards the following, and is held while a message about it leaves
	told   []string   // which keys the agent was told the gateway has; nil before Welcome
}

// serveControl lets an agent in, and leaves what follows to a goroutine of its
// own: one that has done a handshake and asked a database has a stack of 16 KiB or
// more. That goroutine ends as soon as nothing comes, if there is a sleeper. Proven is
// called when the agent has shown a right to be here, and in any case at the end.
func (g *Gateway) serveControl(ctx context.Context, conn *tls.Conn, s *sleeper, proven func()) {
	state := conn.ConnectionState()
	key, err := socketxp.PeerKey(state)
	if err != nil || state.NegotiatedProtocol != control.ALPN {
		proven()
		_ = conn.Close()
		if s != nil {
			s.leave()
		}
		return
	}
	c := &channel{g: g, since: time.Now(), key: bytes.Clone(key), remote: addrOf(conn.RemoteAddr()), proven: proven, sleeper: s}
	o := control.Options{Heartbeat: g.cfg.Heartbeat, SilenceLimit: g.limits.silence}
	if s != nil {
		o.Carrier = s
		s.wake = func() {
			g.spawn("control channel", func() {
				defer s.beds.awake.Add(-1)
				c.attend()
			})
		}
	}
	c.conn = control.NewGateway(conn, o)
	c.ctx, c.end = context.WithCancel(ctx)
	g.live.join(c)
	served := false
	defer func() {
		if !served {
			c.over()
		}
	}()
	if c.serve, err = c.begin(); err != nil {
		if !errors.Is(err, errOver) {
			c.dismiss(err)
			c.awaitEnd()
		}
		return
	}
	served = true
	g.spawn("control channel", c.attend)
}

// attend serves the channel until it is over or asleep.
func (c *channel) attend() {
	asleep := false
	defer func() {
		if !asleep {
			c.over()
		}
	}()
	asleep = c.serve()
}

// next returns the channel's next message. If it is asleep, attend will be called when
// there is one, and the caller must touch nothing any more.
func (c *channel) next() (m control.Message, asleep bool, err error) {
	if c.sleeper != nil {
		m, err = c.conn.Poll(c.ctx)
		if err != control.ErrNothing { //nolint:errorlint // this very error
			return m, false, err
		}
		if c.sleeper.sleep(c.conn) {
			return nil, true, nil
		}
	}
	m, err = c.conn.Receive(c.ctx)
	return m, false, err
}

// over frees what the channel held.
func (c *channel) over() {
	c.end()
	_ = c.conn.Close()
	if c.sleeper != nil {
		c.sleeper.leave()
	}
	c.proven()
	c.g.live.part(c)
}

// errOver says that the channel is over already, and nobody is left to hear why.
var errOver = errors.New("the channel is over")

// begin lets the agent in, as what it says it is, and returns what serves it from
// then on. An error is for the agent to hear, unless it is errOver.
func (c *channel) begin() (serve func() (asleep bool), err error) {
	hello, err := receive[control.Hello](c)
	if err != nil {
		c.g.stats.refused(doorControl, socketxp.CodeOf(err))
		return nil, errOver
	}
	if hello.Version < control.OldestVersion {
		return nil, socketxp.Errorf(socketxp.CodeVersion, "the agent is too old for this gateway").WithHint("install a newer agent")
	}
	version := min(hello.Version, control.Version)
	c.version, c.device = version, hello.Role == control.RoleDevice
	if hello.Role == control.RoleDevice {
		return c.beginDevice(version)
	}
	return c.beginVisitor(version)
}

// receive waits for a message of type M, for as long as an agent may take to show
// who it is.
func receive[M control.Message](c *channel) (M, error) {
	return awaitMessage[M](c.ctx, c.conn, c.g.limits.showWithin)
}

// tell sends a message. An error needs no further care: the channel is closed by
// it, and whoever receives on it sees that.
func (c *channel) tell(m control.Message) error { return c.conn.Send(c.ctx, m) }

// retryAfter returns how long an agent should wait before it comes again after a
// refusal, in seconds.
func retryAfter(why socketxp.Code) int {
	switch why {
	case socketxp.CodeGoingAway:
		return drainRetry
	case socketxp.CodeUnavailable, socketxp.CodeInternal:
		return 5
	case socketxp.CodeRateLimited, socketxp.CodeUnauthenticated:
		return 60
	}
	return 300 // it will be refused again until a person does something
}

// drainRetry is short, as another gateway or the next process is there at once;
// agents spread it by jitter of their own.
const drainRetry = 2

// dismiss tells the agent why the gateway wants nothing more of it, and closes
// the channel when the agent has, or soon. It does not block. Only the first call
// counts.
func (c *channel) dismiss(why error) {
	c.dismissed.Do(func() {
		e := clientError(why)
		c.g.stats.refused(doorControl, e.Code)
		c.g.spawn("message", func() {
			late := time.AfterFunc(partingTime, func() { _ = c.conn.Close() })
			defer late.Stop()
			if c.tell(control.Refused{Code: e.Code, Message: e.Message, Hint: e.Hint, RetryAfter: retryAfter(e.Code)}) != nil {
				return
			}
			<-c.ctx.Done()
		})
	})
}

// awaitEnd lets the agent close a channel that was dismissed.
func (c *channel) awaitEnd() {
	for {
		if _, err := c.conn.Receive(c.ctx); err != nil {
			return
		}
	}
}

// clientError returns what a client may know of err.
func clientError(err error) *socketxp.Error {
	var e *socketxp.Error
	if errors.As(err, &e) {
		return e
	}
	return socketxp.Errorf(socketxp.CodeInternal, "the gateway has a fault").WithHint("its log says more")
}

// unavailable hides from a client why the database did not answer.
func unavailable(err error) *socketxp.Error {
	return &socketxp.Error{Code: socketxp.CodeUnavailable, Message: "the gateway can't check that now", Hint: "try again in a moment", Err: err}
}

// storeFailed counts that the database did not answer, and says so in the log now
// and then: when it is away, thousands ask.
func (g *Gateway) storeFailed(what string, err error) {
	g.stats.storeError()
	if g.complaints.allow(what) {
		g.log.Error("the database did not answer", "what", what, "error", err)
	}
}

// asked bounds one question to the database. It outlives the channel: what was
// begun is finished.
func (g *Gateway) asked(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), g.limits.storeWithin)
}

// deviceChannel is the control channel of a device that was let in. It is the
// cluster's DeviceHolder and one of the open things of live.
type deviceChannel struct {
	*channel
	accountID, id, name string
	// welcomed is closed when the device may be sent offers.
	welcomed chan struct{}
	// nonce is what a change of the key is signed with; none for an agent that can't.
	nonce      []byte
	keySince   time.Time     // when the device got its key
	keyChanges *rate.Limiter // nil before the first; of who receives alone

	mu       sync.Mutex // guards the following
	gone     bool       // the cluster must not find the device here any more
	keyAsked time.Time  // when the device was asked for another key
	unhold   func()     // nil before the cluster holds the device
	// questions are those about single-use keys that the device has not answered.
	questions map[keyQuestion]chan control.Message // nil before the first
}

var _ socketxp.DeviceHolder = (*deviceChannel)(nil)

// hold lets the cluster find the device here.
func (d *deviceChannel) hold() error {
	unhold, err := d.g.cluster.Hold(d.ctx, d.id, d)
	if err != nil {
		return unavailable(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unhold = unhold
	if d.gone {
		unhold()
	}
	return nil
}

// letGo is called before the device or anybody else is told that it is gone:
// whoever hears of it and asks finds it so.
func (d *deviceChannel) letGo() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	if d.unhold != nil {
		d.unhold()
	}
}

// beginDevice lets a device in.
func (c *channel) beginDevice(version int) (serve func() (asleep bool), err error) {
	g := c.g
	seen := g.live.mark() // before the database is asked: see open
	device, keyState, err := g.admitDevice(c)
	if err != nil {
		return nil, err
	}
	c.proven()
	c.proven = func() {} // lets go of the place
	m, err := receive[control.Report](c)
	if err != nil {
		g.stats.refused(doorControl, socketxp.CodeOf(err))
		return nil, errOver
	}
	d := &deviceChannel{channel: c, accountID: device.AccountID, id: device.ID, name: device.Name, welcomed: make(chan struct{}), keySince: device.KeySince}
	if keyState != socketxp.DeviceKeyCurrent && keyState != socketxp.DeviceKeyNext {
		return nil, d.refuseRetired()
	}
	report, err := d.check(m)
	if err != nil {
		return nil, err
	}
	if err := d.proveSequence(device, version, m.Sequence); err != nil {
		return nil, err
	}
	if keyState == socketxp.DeviceKeyNext {
		if err := d.promoteKey(); err != nil {
			return nil, err
		}
	}
	// A fleet that comes back after a restart writes nothing more.
	if !sameReport(device, report) {
		if err := d.record(report, firstReportWithin); err != nil {
			return nil, err
		}
	}
	if err := g.open(d, seen); err != nil {
		return nil, err
	}
	if err := d.hold(); err != nil {
		g.live.remove(d)
		return nil, err
	}
	if version >= control.SequenceVersion {
		d.nonce = randomBytes(control.NonceSize)
	}
	if c.welcome(control.Welcome{
		Version: version, Gateway: g.version,
		DeviceID: device.ID, DeviceName: device.Name, DeviceGroup: device.Group,
		Heartbeat: g.heartbeat(), Nonce: d.nonce,
	}) != nil {
		d.letGo()
		g.live.remove(d)
		return nil, errOver
	}
	close(d.welcomed)
	g.presence.up(device)
	g.log.Debug("a device is connected", "account", d.accountID, "device", d.id, "remote", d.remote.String())
	return d.serve, nil
}

// heartbeat is what a Welcome says of how long the agent may be silent; 0 stands for
// the protocol's default.
func (g *Gateway) heartbeat() int {
	if g.cfg.Heartbeat == control.DefaultHeartbeat {
		return 0
	}
	return int(g.cfg.Heartbeat / time.Second)
}

// admitDevice returns the device whose key was proved, or why it is not let in.
// Nothing is written for one that is refused but an audit record now and then.
func (g *Gateway) admitDevice(c *channel) (socketxp.Device, socketxp.DeviceKeyState, error) {
	ctx, cancel := g.asked(c.ctx)
	defer cancel()
	device, state, err := g.store.DeviceByKey(ctx, c.key)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		device, err = socketxp.Device{}, socketxp.Errorf(socketxp.CodeDeviceUnknown, "the device is not registered here, or was deleted").
			WithHint("socketxp login TOKEN registers it")
	case err != nil:
		g.storeFailed("a device could not be looked up", err)
		return socketxp.Device{}, "", unavailable(err)
	case !device.DisabledAt.IsZero():
		err = errDeviceDisabled
	case !device.QuarantinedAt.IsZero():
		err = errDeviceQuarantined
	case (state == socketxp.DeviceKeyCurrent) != bytes.Equal(device.PublicKey, c.key):
		return socketxp.Device{}, "", socketxp.Errorf(socketxp.CodeInternal, "the gateway has a fault")
	default:
		return device, state, nil
	}
	if g.refusals.allow(string(c.key)) {
		g.auditRefusal(ctx, socketxp.AuditEntry{
			AccountID:  device.AccountID,
			Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: device.ID, RemoteAddr: c.remote.String()},
			Action:     "device.connect",
			ObjectKind: "device", ObjectID: device.ID, ObjectName: device.Name,
			Detail: "key " + socketxp.Fingerprint(c.key),
		}, err)
	}
	return socketxp.Device{}, "", err
}

var errDeviceDisabled = socketxp.Errorf(socketxp.CodeDeviceDisabled, "the device is disabled").
	WithHint("it is enabled in the portal or by the API")

// serve takes the device's messages until the channel is over or asleep.
func (d *deviceChannel) serve() (asleep bool) {
	defer func() {
		if !asleep {
			d.letGo()
			d.g.live.remove(d)
			d.g.presence.down(d.id)
		}
	}()
	for {
		m, resting, err := d.next()
		if err != nil {
			d.g.log.Debug("a device is gone", "account", d.accountID, "device", d.id, "error", err)
			return false
		}
		if resting {
			return true
		}
		if err := d.take(m); err != nil {
			d.dismiss(err)
		}
	}
}

// take acts on a message.
func (d *deviceChannel) take(m control.Message) error {
	switch m := m.(type) {
	case control.Report:
		report, err := d.check(m)
		if err != nil {
			return err
		}
		return d.record(report, d.g.limits.storeWithin)
	case control.KeyChange:
		d.changeKey(m)
	case control.KeyPlaced:
		d.answered(keyQuestion{m.ID, true}, m)
	case control.KeyNotPlaced:
		d.answered(keyQuestion{m.ID, true}, m)
	case control.KeyRemoved:
		d.answered(keyQuestion{m.ID, false}, m)
	case control.OfferRefused:
		d.g.offers.refused(d.id, m)
	case control.Logout:
		if err := d.logOut(); err != nil {
			return err
		}
		if d.tell(control.LoggedOut{}) == nil {
			time.AfterFunc(partingTime, func() { _ = d.conn.Close() }) // if the agent doesn't
		}
	}
	return nil
}

// check returns a report in its stored form.
func (d *deviceChannel) check(m control.Report) (socketxp.DeviceReport, error) {
	r, err := checkReport(m)
	r.At, r.RemoteAddr = d.g.now(), d.remote.String()
	return r, err
}

// firstReportWithin is how long the first report of a device may wait for its turn
// at the database: its first ping is due as soon as 5 s after its Hello, and waits
// 6 s for the answer.
const firstReportWithin = 10 * time.Second

// record stores what a device reports. Few may do so at a time, and the others wait
// here: when thousands report at once, a queue at the database would have most of
// them give up just before their turn.
func (d *deviceChannel) record(r socketxp.DeviceReport, within time.Duration) error {
	if !d.g.presence.mayReport(d.id) {
		return socketxp.Errorf(socketxp.CodeRateLimited, "the device reports changes too often")
	}
	patience := time.NewTimer(within)
	defer patience.Stop()
	select {
	case d.g.reporting <- struct{}{}:
		defer func() { <-d.g.reporting }()
	case <-patience.C:
		return unavailable(errors.New("too many reports are waiting"))
	case <-d.ctx.Done():
		return unavailable(d.ctx.Err())
	}
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	switch err := d.g.store.DeviceConnected(ctx, d.accountID, d.id, r); {
	case errors.Is(err, socketxp.ErrNotFound):
		return socketxp.Errorf(socketxp.CodeDeviceUnknown, "the device was deleted")
	case err != nil:
		d.g.storeFailed("a device's report was not stored", err)
		return unavailable(err)
	}
	return nil
}

// checkReport returns a report in its stored form. Whatever it says, it is about
// the device whose key was proved, and nothing else.
func checkReport(m control.Report) (socketxp.DeviceReport, error) {
	var none socketxp.DeviceReport
	if err := m.Facts.Check(); err != nil {
		return none, err
	}
	if len(m.Tunnels) > socketxp.MaxTunnels {
		return none, socketxp.Errorf(socketxp.CodeInvalid, "a device can't publish more than %d tunnels", socketxp.MaxTunnels)
	}
	if m.GatewayKnownBy != "" {
		if err := socketxp.CheckKnownBy(m.GatewayKnownBy); err != nil {
			return none, err
		}
	}
	r := socketxp.DeviceReport{Facts: m.Facts, GatewayKnownBy: m.GatewayKnownBy}
	seen := make(map[string]bool, len(m.Tunnels))
	for _, t := range m.Tunnels {
		dest, err := socketxp.ParseDestination(t.Destination)
		if err != nil {
			return none, err
		}
		if dest.String() != t.Destination || seen[t.Destination] {
			return none, socketxp.Errorf(socketxp.CodeInvalid, "a destination is published twice or not in its canonical form")
		}
		seen[t.Destination] = true
		r.Tunnels = append(r.Tunnels, socketxp.Tunnel{Destination: dest, SSH: t.SSH})
	}
	if m.SSHHostKey != "" {
		// 1 KiB holds an RSA key of 4096 bits with a long comment; the comment and any
		// options are dropped, as nothing but the key is the device's to say.
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(m.SSHHostKey))
		if err != nil || len(m.SSHHostKey) > 1024 || len(bytes.TrimSpace(rest)) > 0 {
			return none, socketxp.Errorf(socketxp.CodeInvalid, "the SSH host key is not one key in authorized_keys form")
		}
		r.SSHHostKey = string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	}
	return r, nil
}

// sameReport reports whether r would change nothing of what is stored but the
// time, which the presence keeps.
func sameReport(d socketxp.Device, r socketxp.DeviceReport) bool {
	if d.LastSeenAt.IsZero() || d.RemoteAddr != r.RemoteAddr || d.SSHHostKey != r.SSHHostKey || d.GatewayKnownBy != r.GatewayKnownBy || len(d.Tunnels) != len(r.Tunnels) || !sameFacts(d.Facts, r.Facts) {
		return false
	}
	stored := make(map[socketxp.Tunnel]bool, len(d.Tunnels))
	for _, t := range d.Tunnels {
		stored[t] = true
	}
	for _, t := range r.Tunnels {
		if !stored[t] {
			return false
		}
	}
	return true
}

func sameFacts(a, b socketxp.Facts) bool {
	return a.OS == b.OS && a.Arch == b.Arch && a.Kernel == b.Kernel && a.Hostname == b.Hostname && a.Version == b.Version &&
		slices.Equal(a.LocalAddrs, b.LocalAddrs)
}

// logOut forgets the device, as it asked: its key was proved by the channel.
func (d *deviceChannel) logOut() error {
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	err := d.g.store.DeleteDevice(ctx, d.accountID, d.id, socketxp.AuditEntry{
		AccountID:  d.accountID,
		At:         d.g.now(),
		Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: d.id, RemoteAddr: d.remote.String()},
		Action:     "device.logout",
		ObjectKind: "device", ObjectID: d.id, ObjectName: d.name,
	})
	if err != nil && !errors.Is(err, socketxp.ErrNotFound) {
		d.g.storeFailed("a device could not log out", err)
		return unavailable(err)
	}
	// The device's own channel is about to be told LoggedOut; the hint is for what
	// visitors have open.
	d.g.live.remove(d)
	d.letGo()
	d.g.presence.forget(d.id)
	d.g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceDeleted, AccountID: d.accountID, ID: d.id})
	d.g.publishEvent(ctx, socketxp.Event{
		AccountID: d.accountID, Type: socketxp.EventDeviceDeleted,
		DeviceID: d.id, DeviceName: d.name, Message: "the device " + d.name + " logged out",
	})
	return nil
}

// Offer is for the cluster.
func (d *deviceChannel) Offer(ctx context.Context, o socketxp.Offer) error {
	select {
	case <-d.welcomed:
	case <-d.ctx.Done():
		return socketxp.ErrDeviceOffline
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.tell(control.Offer{SessionID: o.SessionID, Ticket: o.Ticket, VisitorKey: o.VisitorKey, Destination: o.Destination}) != nil {
		return socketxp.ErrDeviceOffline
	}
	return nil
}

// Supersede is for the cluster.
func (d *deviceChannel) Supersede() {
	d.dismiss(socketxp.Errorf(socketxp.CodeReplaced, "another agent with this device's key has connected").
		WithHint("is the same device.key on two machines, or the agent running twice?"))
}

func (d *deviceChannel) binding() binding {
	return binding{accountID: d.accountID, deviceID: d.id}
}

// judge asks whether the device may still be here. The token that registered it
// and its maker do not matter: trust in a device hangs on its row and key.
func (d *deviceChannel) judge(ctx context.Context, p *pass) error {
	device, err := p.device(ctx, d.accountID, d.id)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return socketxp.Errorf(socketxp.CodeDeviceUnknown, "the device was deleted").WithHint("socketxp login TOKEN registers it again")
	case err != nil:
		return err
	case !device.DisabledAt.IsZero():
		return errDeviceDisabled
	case !device.QuarantinedAt.IsZero():
		return errDeviceQuarantined
	case !bytes.Equal(device.PublicKey, d.key):
		return errKeyRetired
	}
	return nil
}

func (d *deviceChannel) cut(why error) {
	d.letGo()
	if socketxp.CodeOf(why) == socketxp.CodeDeviceUnknown {
		d.g.presence.forget(d.id)
	}
	d.dismiss(why)
}
