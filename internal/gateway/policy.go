package gateway

import (
	"errors"
	"slices"
	"time"

	"socketxp"
)

// policy says who may use a route. The zero policy allows nobody, and a route with
// it stops the program at its start.
type policy struct {
	purpose socketxp.Purpose
	// right is what the credential must have besides; each route of PurposeAPI names
	// one.
	right socketxp.Right
	// fresh asks for a password entered within socketxp.FreshAuth.
	fresh bool
}

var public = policy{purpose: socketxp.PurposePublic}

// personal is for acts of a person on their own sign-in.
var personal = policy{purpose: socketxp.PurposePortal}

// needs is for what tokens and people may do who have the right.
func needs(r socketxp.Right) policy { return policy{purpose: socketxp.PurposeAPI, right: r} }

// check returns an error unless the policy says clearly who is meant.
func (p policy) check() error {
	switch p.purpose {
	case socketxp.PurposePublic, socketxp.PurposeRegister:
		if p.right != "" || p.fresh {
			return errors.New("it asks for more than its purpose can have")
		}
	case socketxp.PurposeAPI:
		if !slices.Contains(socketxp.Rights, p.right) {
			return errors.New("it names no right")
		}
	case socketxp.PurposePortal:
		if p.right != "" && !slices.Contains(socketxp.Rights, p.right) {
			return errors.New("it names an unknown right")
		}
	case socketxp.PurposeVisit, socketxp.PurposeControl, socketxp.PurposeLink:
		return errors.New("its purpose is not one of the HTTPS door")
	default:
		return errors.New("it has no purpose")
	}
	return nil
}

// judge returns why who, of a kind that is good for the purpose, may not use the
// route, or nil.
func (p policy) judge(who caller, now time.Time) error {
	if p.right != "" && !slices.Contains(who.rights, p.right) {
		return socketxp.Errorf(socketxp.CodeForbidden, "this needs the right %s", p.right).WithHint("use a credential that has it")
	}
	if p.fresh && now.Sub(who.signIn.AuthAt) >= socketxp.FreshAuth {
		return socketxp.Errorf(socketxp.CodeReauthRequired, "this needs a password entered in the last %d minutes", int(socketxp.FreshAuth.Minutes())).
			WithHint("enter it again (POST /api/v1/reauth)")
	}
	return nil
}
