package gateway

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// sequences takes devices through their sequences (internal/control/SPEC.md,
// section 6), by which a second holder of a device's key is found.
type sequences struct {
	store sequenceReader
	// move writes a move and returns when it is durable. It is errBehind if the sequence
	// was another one by then; after any other error it may have been written.
	move   func(ctx context.Context, m socketxp.SequenceMove) error
	within time.Duration // for one question to the database
	talk   time.Duration // for each of a device's answers
}

type sequenceReader interface {
	Device(ctx context.Context, accountID, id string) (socketxp.Device, error)
}

// conversation is a control channel, as far as a sequence needs one.
type conversation interface {
	Send(ctx context.Context, m control.Message) error
	Receive(ctx context.Context) (control.Message, error)
}

// foreignError says that whoever speaks on the channel is there and holds the
// device's key, but not what the one device must hold: there are two.
type foreignError struct{ seen socketxp.Sequence }

func (*foreignError) Error() string { return "two machines hold the device's key" }

// errBehind is for a channel that another one of the same device has overtaken.
var errBehind = socketxp.Errorf(socketxp.CodeUnavailable, "another connection of this device came first").WithHint("try again in a moment")

// prove has a device show that it is the one, and moves its sequence: with nil the
// channel is the only one that was let in by this value. It is a *foreignError if
// the device is a second one, errOver if nobody is left to hear why, and anything
// else is for the agent.
//
// The row is read after the Report has come: what the one device showed on a
// channel that it is still on is then one of the two values in the row.
func (s *sequences) prove(ctx context.Context, conn conversation, accountID, id string, shown []byte) error {
	device, err := s.device(ctx, accountID, id)
	if err != nil {
		return err
	}
	seq := device.Sequence
	switch seq.Judge(shown) {
	case socketxp.SequenceHeld:
	case socketxp.SequenceMoves:
		to := socketxp.Sequence{Current: shown, Next: randomBytes(socketxp.SequenceSize)}
		if err := s.move(ctx, socketxp.SequenceMove{AccountID: accountID, DeviceID: id, From: seq, To: to}); err != nil {
			return err
		}
		seq = to
	case socketxp.SequenceForeign:
		return s.check(ctx, conn, seq)
	default:
		return socketxp.Errorf(socketxp.CodeInternal, "the gateway has a fault")
	}
	if conn.Send(ctx, control.SequenceNext{Next: seq.Next}) != nil {
		return errOver
	}
	kept, err := awaitMessage[control.SequenceKept](ctx, conn, s.talk)
	switch {
	case err != nil:
		return errOver
	case subtle.ConstantTimeCompare(kept.Next, seq.Next) != 1:
		return socketxp.Errorf(socketxp.CodeProtocol, "the device has kept another value than it was given")
	}
	return s.move(ctx, socketxp.SequenceMove{
		AccountID: accountID, DeviceID: id, From: seq,
		To: socketxp.Sequence{Current: seq.Next, Next: randomBytes(socketxp.SequenceSize)},
	})
}

func (s *sequences) device(ctx context.Context, accountID, id string) (socketxp.Device, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.within)
	defer cancel()
	device, err := s.store.Device(ctx, accountID, id)
	switch {
	case errors.Is(err, socketxp.ErrNotFound):
		return device, socketxp.Errorf(socketxp.CodeDeviceUnknown, "the device was deleted")
	case err != nil:
		return device, unavailable(err)
	case !device.QuarantinedAt.IsZero():
		return device, errDeviceQuarantined
	}
	return device, nil
}

// check asks on this very channel whether somebody is there, and returns a
// *foreignError if so. Bytes that come late, from a channel that the one device has
// given up, can't answer what was made up just now.
func (s *sequences) check(ctx context.Context, conn conversation, seq socketxp.Sequence) error {
	nonce := randomBytes(control.NonceSize)
	if conn.Send(ctx, control.SequenceCheck{Nonce: nonce}) != nil {
		return errOver
	}
	held, err := awaitMessage[control.SequenceHeld](ctx, conn, s.talk)
	switch {
	case err != nil:
		return errOver
	case subtle.ConstantTimeCompare(held.Nonce, nonce) != 1:
		return socketxp.Errorf(socketxp.CodeProtocol, "the answer is to another question")
	}
	return &foreignError{seq}
}

// awaitMessage waits for a message of type M.
func awaitMessage[M control.Message](ctx context.Context, conn conversation, within time.Duration) (M, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var none M
	m, err := conn.Receive(ctx)
	if err != nil {
		return none, err
	}
	got, ok := m.(M)
	if !ok {
		return none, socketxp.Errorf(socketxp.CodeProtocol, "another message was due")
	}
	return got, nil
}

// randomBytes returns n bytes that nobody can guess.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: see crypto/rand
	return b
}

var errDeviceQuarantined = socketxp.Errorf(socketxp.CodeQuarantined, "the device is in quarantine: two machines use its key").
	WithHint("on the genuine machine: socketxp relogin TOKEN; on a copy that is to be a device of its own: socketxp relogin TOKEN --iot-device-name NAME")

// errVisitQuarantined is the same for people who want to reach the device.
var errVisitQuarantined = socketxp.Errorf(socketxp.CodeQuarantined, "the device is in quarantine: two machines use its key").
	WithHint("whoever looks after the device brings it back: socketxp relogin on the genuine machine")

// proveSequence lets the channel be the one of its device, or puts the device in
// quarantine because there is another one.
func (d *deviceChannel) proveSequence(device socketxp.Device, version int, shown []byte) error {
	if version < control.SequenceVersion {
		// It can't follow one. Whoever has a copy of a newer agent's key must not get
		// around the sequence by speaking the older version.
		if device.Sequence.Begun() {
			return socketxp.Errorf(socketxp.CodeVersion, "this device has been let in with a newer agent").WithHint("install that agent again; or release the device by the API")
		}
		return nil
	}
	err := d.g.sequences.prove(d.ctx, d.conn, d.accountID, d.id, shown)
	var foreign *foreignError
	switch {
	case errors.As(err, &foreign):
		return d.quarantine(device, foreign.seen)
	case err == error(errBehind): //nolint:errorlint // this very error: the database has answered
	case socketxp.CodeOf(err) == socketxp.CodeUnavailable:
		d.g.storeFailed("a device's sequence could not be moved", err)
	case errors.Is(err, errOver):
		d.g.stats.refused(doorControl, socketxp.CodeProtocol)
	}
	return err
}

// quarantine keeps everybody out who holds the device's key: nobody can tell here
// which of two holders is the genuine machine. It returns what the one is told that
// was found last; the hint has the other one cut.
func (d *deviceChannel) quarantine(device socketxp.Device, seen socketxp.Sequence) error {
	ctx, cancel := d.g.asked(d.ctx)
	defer cancel()
	reason := "its key was shown from " + d.remote.String() + " by another machine than the one that was let in last"
	if device.RemoteAddr != "" {
		reason += ", from " + device.RemoteAddr
	}
	err := d.g.store.QuarantineDevice(ctx, d.accountID, d.id, seen, reason, socketxp.AuditEntry{
		AccountID:  d.accountID,
		At:         d.g.now(),
		Actor:      socketxp.Actor{Kind: socketxp.KindDeviceKey, DeviceID: d.id, RemoteAddr: d.remote.String()},
		Action:     "device.quarantine",
		ObjectKind: "device", ObjectID: d.id, ObjectName: d.name, Detail: reason,
	})
	switch {
	case errors.Is(err, socketxp.ErrConflict), errors.Is(err, socketxp.ErrNotFound):
		return errBehind // somebody has changed what was seen; the next try finds it as it is now
	case err != nil:
		d.g.storeFailed("a device could not be put in quarantine", err)
		return unavailable(err)
	}
	d.g.log.Warn("a device is in quarantine", "account", d.accountID, "device", d.id, "name", d.name, "reason", reason)
	d.g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: d.accountID, ID: d.id})
	d.g.publishEvent(ctx, socketxp.Event{
		AccountID: d.accountID, Type: socketxp.EventDeviceQuarantined, DeviceID: d.id, DeviceName: d.name,
		Message: fmt.Sprintf("the device %s is in quarantine: %s", d.name, reason),
	})
	return errDeviceQuarantined
}

// releaseDevice ends a quarantine. Whoever connects next with the device's key is
// taken for the device.
func (g *Gateway) releaseDevice(ctx context.Context, who caller, in *idIn) (*deviceOut, error) {
	old, err := g.deviceOf(ctx, who, in.ID)
	if err != nil {
		return nil, err
	}
	entry := g.entry(who, "device.release", "device", old.ID, old.Name)
	if !old.QuarantinedAt.IsZero() {
		entry.Detail = "in quarantine since " + old.QuarantinedAt.UTC().Format(time.RFC3339)
	}
	d, err := g.store.ReleaseDevice(ctx, who.accountID, old.ID, entry)
	if err != nil {
		return nil, orMissing(err, "device")
	}
	g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: d.AccountID, ID: d.ID})
	g.publishEvent(ctx, socketxp.Event{
		AccountID: d.AccountID, Type: socketxp.EventDeviceChanged, DeviceID: d.ID, DeviceName: d.Name,
		Message: "the device " + d.Name + " was changed: release",
	})
	return g.answerDevice(ctx, d)
}
