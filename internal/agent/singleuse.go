package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"

	"socketxp"
	"socketxp/internal/control"
)

// singleUseFile lists the single-use keys that may be in users' files: what a crash
// leaves there is taken away when the agent starts.
const (
	singleUseFile    = "single_use_keys"
	maxSingleUseFile = 64 << 10
)

const (
	// maxSingleUseKeys is how many keys may be in place at a time, those included that
	// could not be taken away yet.
	maxSingleUseKeys = 8
	// A key is written to a disk, twice: singleUseBurst at once and one per
	// singleUsePace from then on is more than people open terminals, and no wear.
	singleUseBurst = 20
	singleUsePace  = 3 * time.Second
	// placeWithin is how long it may take to place a key (control SPEC section 8).
	placeWithin = 10 * time.Second
	// greetingWithin is how long sshd may take to say what it is.
	greetingWithin = 3 * time.Second
	// A key that can't be taken away is tried removeTries times, after removeRetry and
	// then twice as long each time. It has expired by then, or soon.
	removeTries = 4
	removeRetry = time.Second
	// maxStaleKeys is how many such keys of one user are remembered.
	maxStaleKeys = 16
)

// singleUseKeys places keys that let the gateway in to this machine's sshd once. The
// gateway's wish is needed for one and does not suffice: whether, for which users and
// for which tunnels is what this device is configured to allow.
type singleUseKeys struct {
	device     *device
	executable string
	lookup     func(name string) (account, error)
	edit       func(context.Context, string, account, keyEdit) (made bool, err error)
	now        func() time.Time
	serving    sync.WaitGroup

	mu   sync.Mutex // guards the following
	keys map[string]*singleUseKey
	full time.Time // when all of singleUseBurst are there again
	// made are the users whose authorized_keys was made for a key.
	made map[string]bool
	// stale are, by user, the ids of keys that could not be taken away. Each edit of the
	// user's file tries it again.
	stale map[string][]string
}

// wait returns when all keys are gone, or given up; nothing may be placed any more.
func (s *singleUseKeys) wait() { s.serving.Wait() }

// singleUseKey is one key, from when it was asked for until it is gone.
type singleUseKey struct {
	id, user string
	unwanted context.CancelFunc // the gateway needs it no more
	gone     chan struct{}      // closed when it is not in the user's file
	over     chan struct{}      // closed when nothing more is done about it
	awaited  bool               // the gateway gets an answer when it is gone; guarded by mu
}

func newSingleUseKeys(d *device, executable string) *singleUseKeys {
	return &singleUseKeys{
		device: d, executable: executable, lookup: lookupAccount, edit: editKeys, now: time.Now,
		keys: make(map[string]*singleUseKey), made: make(map[string]bool), stale: make(map[string][]string),
	}
}

// place answers a PlaceKey, and takes the key away when its life is over, the channel
// of ctx or the tunnel ends, or remove is called. It writes down what it is about to do,
// and waits for nothing else.
func (s *singleUseKeys) place(ctx context.Context, conn *control.Conn, m control.PlaceKey) {
	t, as, err := s.judge(m)
	var k *singleUseKey
	if err == nil {
		k, err = s.enter(m.ID, as.name)
	}
	if err != nil {
		s.refuse(ctx, conn, m, err)
		return
	}
	// The life is counted from here, and by a clock that nobody sets.
	life, cancel := context.WithTimeout(ctx, time.Duration(m.Life)*time.Second)
	expires := s.now().Add(time.Duration(m.Life) * time.Second)
	k.unwanted = cancel
	s.serving.Go(func() {
		defer close(k.over)
		defer s.leave(k)
		defer cancel()
		stop := context.AfterFunc(t.ctx, cancel)
		defer stop()
		placing, over := context.WithTimeout(life, placeWithin)
		defer over()
		var line string
		guard(s.device.log, "single-use key", func() {
			var err error
			if line, err = s.line(placing, m, t, expires); err != nil {
				close(k.gone) // it never was there
				s.refuse(ctx, conn, m, err)
			}
		})
		if line == "" {
			return
		}
		guard(s.device.log, "single-use key", func() {
			if err := s.change(placing, as, keyEdit{Add: line}); err != nil {
				s.refuse(ctx, conn, m, err)
				return
			}
			s.device.log.Info("a single-use key is in place", "id", m.ID, "user", as.name, "destination", m.Destination)
			if conn.Send(ctx, control.KeyPlaced{ID: m.ID, User: as.name}) == nil {
				<-life.Done()
			}
		})
		guard(s.device.log, "single-use key", func() { s.takeAway(k, as) })
	})
}

// refuse tells the gateway and the log why a key is not placed.
func (s *singleUseKeys) refuse(ctx context.Context, conn *control.Conn, m control.PlaceKey, err error) {
	no := control.KeyNotPlaced{ID: m.ID, Code: socketxp.CodeUnavailable, Message: "this device can't place the key: its log says more"}
	var e *socketxp.Error
	if errors.As(err, &e) {
		no.Code, no.Message, no.Hint = e.Code, e.Message, e.Hint
	}
	s.device.log.Info("a single-use key was refused", "destination", m.Destination, "user", m.User, "err", err)
	_ = conn.Send(ctx, no) // an error closes the channel, and whoever receives on it sees that
}

// judge returns the tunnel and the user of a PlaceKey if this device allows it.
func (s *singleUseKeys) judge(m control.PlaceKey) (*publication, account, error) {
	var none account
	t := s.device.tunnels.find(m.Destination)
	switch {
	case t == nil:
		return nil, none, socketxp.Errorf(socketxp.CodeNotPublished, "this device doesn't publish %s", m.Destination)
	case t.SSH:
		return nil, none, socketxp.Errorf(socketxp.CodeInvalid, "%s ends in the built-in SSH server, which asks for no key", m.Destination)
	case !t.SingleUseKeys:
		return nil, none, socketxp.Errorf(socketxp.CodeForbidden, "this device allows no single-use keys").
			WithHint(`sign in by password or key, or allow them on the device: "ssh": {"single_use_keys": true} in its config.json`)
	}
	users := t.Users
	if len(users) == 0 {
		self, err := user.LookupId(strconv.Itoa(os.Geteuid()))
		if err != nil {
			return nil, none, err
		}
		users = []string{self.Username}
	}
	name := m.User
	if name == "" {
		name = users[0]
	}
	if !slices.Contains(users, name) {
		return nil, none, socketxp.Errorf(socketxp.CodeForbidden, "this device allows no single-use keys for %s", name).
			WithHint(`sign in by password or key, or name the user on the device: "ssh": {"users": [...]} in its config.json`)
	}
	// A name that the answer can't carry would cost the channel.
	if err := control.CheckUser(name); err != nil {
		return nil, none, hinted(`name another user on the device: "ssh": {"users": [...]} in its config.json`, "there are no single-use keys for this device's user: %v", err)
	}
	as, err := s.lookup(name)
	if err != nil {
		return nil, none, hinted("", "%v", err)
	}
	return t, as, nil
}

// enter takes a place for a key.
func (s *singleUseKeys) enter(id, name string) (*singleUseKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.full.Before(now) {
		s.full = now
	}
	switch {
	case s.keys[id] != nil:
		return nil, socketxp.Errorf(socketxp.CodeConflict, "there is a single-use key of this id")
	case len(s.keys) >= maxSingleUseKeys:
		return nil, socketxp.Errorf(socketxp.CodeRateLimited, "this device has %d single-use keys in place", len(s.keys)).WithHint("try again in a moment")
	case s.full.Add(singleUsePace).Sub(now) > singleUseBurst*singleUsePace:
		return nil, socketxp.Errorf(socketxp.CodeRateLimited, "this device is asked for single-use keys too often").WithHint("try again in a moment")
	}
	s.full = s.full.Add(singleUsePace)
	k := &singleUseKey{id: id, user: name, unwanted: func() {}, gone: make(chan struct{}), over: make(chan struct{})}
	s.keys[id] = k
	// Before the key is in the user's file: so there is no moment at which a crash leaves
	// it there unknown.
	if err := s.writeDown(); err != nil {
		delete(s.keys, id)
		return nil, err
	}
	return k, nil
}

func (s *singleUseKeys) leave(k *singleUseKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, k.id)
	select {
	case <-k.gone:
	default:
		s.stale[k.user] = append(s.stale[k.user], k.id)
		s.stale[k.user] = s.stale[k.user][max(0, len(s.stale[k.user])-maxStaleKeys):]
	}
	if err := s.writeDown(); err != nil {
		s.device.log.Warn("what single-use keys there are could not be written down", "err", err)
	}
}

// line returns what is to stand in authorized_keys, as the sshd at the tunnel's end
// understands it.
func (s *singleUseKeys) line(ctx context.Context, m control.PlaceKey, t *publication, expires time.Time) (string, error) {
	greeting, err := s.greeting(ctx, t.Destination)
	if err != nil {
		return "", err
	}
	expiry, err := expiryFor(greeting, expires, machineZone())
	if err != nil {
		return "", err
	}
	return keyLine(m.ID, m.PublicKey, expiry)
}

// greeting returns the first line of what is at a destination.
func (s *singleUseKeys) greeting(ctx context.Context, d socketxp.Destination) (string, error) {
	conn, err := dialDestination(ctx, s.device.links.resolve, d)
	if err != nil {
		return "", socketxp.Errorf(socketxp.CodeDialFailed, "this device can't reach %s", d).WithHint("does sshd run there?")
	}
	defer func() { _ = conn.Close() }()
	limit := time.Now().Add(greetingWithin)
	if end, ok := ctx.Deadline(); ok && end.Before(limit) {
		limit = end
	}
	_ = conn.SetReadDeadline(limit)
	line, err := bufio.NewReaderSize(io.LimitReader(conn, 255), 256).ReadSlice('\n') // RFC 4253 section 4.2
	if err != nil {
		return "", socketxp.Errorf(socketxp.CodeDialFailed, "what is at %s speaks no SSH", d)
	}
	return string(line), nil
}

// change edits a user's file.
func (s *singleUseKeys) change(ctx context.Context, as account, edit keyEdit) error {
	s.mu.Lock()
	stale := slices.Clone(s.stale[as.name])
	edit.RemoveFile = edit.Add == "" && s.made[as.name]
	s.mu.Unlock()
	edit.Remove = append(edit.Remove, stale...)
	made, err := s.edit(ctx, s.executable, as, edit)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if made {
		s.made[as.name] = true
	}
	s.stale[as.name] = slices.DeleteFunc(s.stale[as.name], func(id string) bool { return slices.Contains(stale, id) })
	return nil
}

// takeAway removes a key from the user's file, or tries to.
func (s *singleUseKeys) takeAway(k *singleUseKey, as account) {
	wait := removeRetry
	for try := 1; ; try++ {
		err := s.change(context.WithoutCancel(s.device.ctx), as, keyEdit{Remove: []string{k.id}})
		if err == nil {
			close(k.gone)
			s.device.log.Info("a single-use key is gone", "id", k.id, "user", as.name)
			return
		}
		s.device.log.Warn("a single-use key could not be taken away", "id", k.id, "user", as.name, "try", try, "err", err)
		if try == removeTries || !sleep(s.device.ctx, wait) {
			return
		}
		wait *= 2
	}
}

// remove answers a RemoveKey when the key is gone. It does not block.
func (s *singleUseKeys) remove(ctx context.Context, conn *control.Conn, m control.RemoveKey) {
	s.mu.Lock()
	k := s.keys[m.ID]
	left := false // it could not be taken away
	for _, ids := range s.stale {
		left = left || slices.Contains(ids, m.ID)
	}
	asked := false // one answer is on its way: a gateway that repeats itself gets no more
	if k != nil {
		asked, k.awaited = k.awaited, true
	}
	s.mu.Unlock()
	switch {
	case left, asked:
		return
	case k == nil:
		_ = conn.Send(ctx, control.KeyRemoved(m))
		return
	}
	k.unwanted()
	s.serving.Go(func() {
		select {
		case <-k.gone:
			_ = conn.Send(ctx, control.KeyRemoved(m))
		case <-k.over:
		}
	})
}

// singleUseList is what singleUseFile holds.
type singleUseList struct {
	Keys []singleUseEntry `json:"keys"`
}

type singleUseEntry struct {
	ID   string `json:"id"`
	User string `json:"user"`
}

// writeDown writes which keys there may be. The caller holds mu.
func (s *singleUseKeys) writeDown() error {
	list := singleUseList{Keys: make([]singleUseEntry, 0, len(s.keys))}
	for _, k := range s.keys {
		list.Keys = append(list.Keys, singleUseEntry{ID: k.id, User: k.user})
	}
	for name, ids := range s.stale {
		for _, id := range ids {
			list.Keys = append(list.Keys, singleUseEntry{ID: id, User: name})
		}
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return s.device.dir.write(singleUseFile, data)
}

// cleanUp takes away the keys that an agent has left behind that was killed. What it
// can't take away stays written down.
func (s *singleUseKeys) cleanUp() {
	data, err := s.device.dir.read(singleUseFile, maxSingleUseFile, true)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list singleUseList
	if err == nil {
		err = socketxp.StrictUnmarshal(data, &list)
	}
	if err != nil {
		s.device.log.Warn("what single-use keys there were is not known", "file", s.device.dir.file(singleUseFile), "err", err)
		return
	}
	s.mu.Lock()
	for _, e := range list.Keys {
		if socketxp.ValidID(e.ID) && len(s.stale[e.User]) < 2*maxStaleKeys {
			s.stale[e.User] = append(s.stale[e.User], e.ID)
		}
	}
	users := slices.Collect(maps.Keys(s.stale))
	s.mu.Unlock()
	for _, name := range users {
		s.serving.Go(func() {
			guard(s.device.log, "single-use key", func() { s.cleanUpFor(name) })
		})
	}
}

func (s *singleUseKeys) cleanUpFor(name string) {
	as, err := s.lookup(name)
	switch {
	case errors.As(err, new(user.UnknownUserError)): // and the user's files went, too
		s.mu.Lock()
		delete(s.stale, name)
		s.mu.Unlock()
	case err == nil:
		err = s.change(s.device.ctx, as, keyEdit{})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(err, s.writeDown()); err != nil {
		s.device.log.Warn("single-use keys of before could not be taken away", "user", name, "err", err)
	}
}
