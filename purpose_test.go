package socketxp_test

import (
	"slices"
	"testing"

	"socketxp"
)

// golden is the table of DESIGN.md 6, written down a second time on purpose.
var golden = []struct {
	kind                                            socketxp.Kind
	api, portal, register, visit, control, linkHalf bool
}{
	{socketxp.KindBasic, true, false, true, true, false, false},
	{socketxp.KindAPI, true, false, false, false, false, false},
	{socketxp.KindRegistration, false, false, true, false, false, false},
	{socketxp.KindAccess, false, false, false, true, false, false},
	{socketxp.KindSignIn, true, true, false, false, false, false},
	{socketxp.KindTicket, false, false, false, false, false, true},
	{socketxp.KindDeviceKey, false, false, false, false, true, false},
	{socketxp.KindConsole, false, false, false, false, false, false},
	{socketxp.KindNone, false, false, false, false, false, false},
	{"BASIC", false, false, false, false, false, false},
	{"basic ", false, false, false, false, false, false},
	{"admin", false, false, false, false, false, false},
}

func TestMayUse(t *testing.T) {
	var kinds []socketxp.Kind
	for _, g := range golden {
		t.Run("T-13 "+string(g.kind), func(t *testing.T) {
			for purpose, want := range map[socketxp.Purpose]bool{
				socketxp.PurposeAPI: g.api, socketxp.PurposePortal: g.portal, socketxp.PurposeRegister: g.register,
				socketxp.PurposeVisit: g.visit, socketxp.PurposeControl: g.control, socketxp.PurposeLink: g.linkHalf,
				socketxp.PurposePublic: false, "": false, "API": false, "unknown": false,
			} {
				if got := socketxp.MayUse(g.kind, purpose); got != want {
					t.Errorf("MayUse(%q, %q) = %v", g.kind, purpose, got)
				}
			}
		})
		kinds = append(kinds, g.kind)
	}
	for _, k := range socketxp.Kinds {
		if !slices.Contains(kinds, k) {
			t.Errorf("%q is not in the golden table", k)
		}
	}
}

func TestRights(t *testing.T) {
	if got := socketxp.RoleOwner.Rights(); !slices.Equal(got, socketxp.Rights) {
		t.Errorf("an owner has %v", got)
	}
	for _, role := range []socketxp.Role{"", "Owner", "admin", "viewer"} {
		if got := role.Rights(); len(got) != 0 {
			t.Errorf("role %q has %v", role, got)
		}
	}
	if got := socketxp.TokenBasic.DefaultRights(); !slices.Equal(got, socketxp.Rights) {
		t.Errorf("a basic token gets %v", got)
	}
	if got := socketxp.TokenAPI.DefaultRights(); len(got) != len(socketxp.Rights)-1 || slices.Contains(got, socketxp.RightTokensAdmin) {
		t.Errorf("an api token gets %v", got)
	}
	for _, k := range []socketxp.TokenKind{socketxp.TokenRegistration, socketxp.TokenAccess, "", "owner"} {
		if got := k.DefaultRights(); len(got) != 0 {
			t.Errorf("a token of kind %q gets %v", k, got)
		}
	}
}
