package main

import (
	"context"
	"os"
	"time"

	"socketxp/internal/agent"
)

const (
	// accessLife is how long a token lasts that is made for one visit: what is open
	// when it runs out is cut.
	accessLife = 8 * time.Hour
	// revokeWithin is how long its end may hold up the program's.
	revokeWithin = 5 * time.Second
)

// reach adds to peer the right to reach it, and what else every visit needs. The
// right is the token that was given, or, of a person who is signed in, one that is
// made for this device and port alone; release revokes that one. Command is what the
// token is called after.
func (a *app) reach(ctx context.Context, command string, from tokenFlags, peer agent.Peer) (_ agent.Peer, release func(), err error) {
	if peer, err = a.prepare(from, peer); err != nil || peer.Token != "" {
		return peer, func() {}, err
	}
	p, err := a.signedIn()
	if err != nil {
		return peer, nil, err
	}
	device, err := p.device(ctx, peer.DeviceID+peer.DeviceName)
	if err != nil {
		p.Close()
		return peer, nil, err
	}
	made := "" // the id of the token that is good now
	renew := func(ctx context.Context) (agent.Target, error) {
		host, _ := os.Hostname()
		target, token, err := p.access(ctx, device, peer.DevicePort, accessLife, shown("socketxp "+command+" on "+host, 128))
		if err == nil {
			made = token.ID
		}
		return target, err
	}
	if peer.Target, err = renew(ctx); err != nil {
		p.Close()
		return peer, nil, err
	}
	peer.Renew = func(ctx context.Context) (string, error) {
		target, err := renew(ctx)
		return target.Token, err
	}
	return peer, func() {
		// Also when the program was told to end. What can't be revoked ends by itself.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeWithin)
		defer cancel()
		if err := p.RevokeToken(ctx, made); err != nil {
			a.log().Debug("the access token was not revoked", "id", made, "err", err)
		}
		p.Close()
	}, nil
}

// prepare is reach without the right of a person who is signed in: Token is empty if
// it is theirs that counts.
func (a *app) prepare(from tokenFlags, peer agent.Peer) (agent.Peer, error) {
	var err error
	if peer.Target, err = a.target(from, ""); err != nil {
		return peer, err
	}
	peer.Dir, err = a.dir("")
	peer.Version, peer.Log = programVersion(), a.log()
	return peer, err
}
