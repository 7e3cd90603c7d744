package socketxp

// Kind is a kind of credential: the four kinds of token, and what else can
// prove who is calling.
type Kind string

// The kinds of credential.
const (
	KindNone         Kind = ""
	KindBasic        Kind = Kind(TokenBasic)
	KindAPI          Kind = Kind(TokenAPI)
	KindRegistration Kind = Kind(TokenRegistration)
	KindAccess       Kind = Kind(TokenAccess)
	KindSignIn       Kind = "signin" // the portal's cookie
	KindTicket       Kind = "ticket" // one half of a link
	KindDeviceKey    Kind = "device_key"
	KindConsole      Kind = "console" // whoever can run socketxp-gateway admin on the machine; audit only
)

// Kinds lists every kind that can arrive from outside.
var Kinds = []Kind{KindBasic, KindAPI, KindRegistration, KindAccess, KindSignIn, KindTicket, KindDeviceKey}

// Purpose is what a credential is used for. Every route and door names one.
type Purpose string

// The purposes. The zero Purpose allows nobody.
const (
	PurposePublic   Purpose = "public"   // no credential is looked at
	PurposeAPI      Purpose = "api"      // the REST API
	PurposePortal   Purpose = "portal"   // acts on the sign-in itself: sign-out, password, re-authentication
	PurposeRegister Purpose = "register" // registering a device
	PurposeVisit    Purpose = "visit"    // reaching a device from slave mode
	PurposeControl  Purpose = "control"  // a device's control channel
	PurposeLink     Purpose = "link"     // one half of a link
)

// uses is the one table that says which kind of credential may do what. The
// tests of every route and door are generated from it.
var uses = map[Kind][]Purpose{
	KindBasic:        {PurposeAPI, PurposeRegister, PurposeVisit},
	KindAPI:          {PurposeAPI},
	KindRegistration: {PurposeRegister},
	KindAccess:       {PurposeVisit},
	KindSignIn:       {PurposeAPI, PurposePortal},
	KindTicket:       {PurposeLink},
	KindDeviceKey:    {PurposeControl},
}

// MayUse reports whether credentials of kind k are good for purpose p. Unknown
// kinds and purposes are good for nothing; PurposePublic asks for no credential
// and is never a credential's purpose.
func MayUse(k Kind, p Purpose) bool {
	for _, q := range uses[k] {
		if q == p {
			return true
		}
	}
	return false
}

// Right is one thing that a basic or api token, or a person, may do with the
// REST API.
type Right string

// The rights.
const (
	RightAccountRead   Right = "account:read"
	RightDevicesRead   Right = "devices:read"
	RightDevicesWrite  Right = "devices:write"
	RightTokensRead    Right = "tokens:read"
	RightTokensWrite   Right = "tokens:write" // make registration and access tokens; revoke any
	RightTokensAdmin   Right = "tokens:admin" // make basic and api tokens
	RightSessionsRead  Right = "sessions:read"
	RightSessionsWrite Right = "sessions:write"
	RightEventsRead    Right = "events:read"
	RightAuditRead     Right = "audit:read"
)

// Rights lists all rights.
var Rights = []Right{
	RightAccountRead, RightDevicesRead, RightDevicesWrite, RightTokensRead, RightTokensWrite, RightTokensAdmin,
	RightSessionsRead, RightSessionsWrite, RightEventsRead, RightAuditRead,
}

// Rights returns what the role may do; nothing for an unknown role.
func (r Role) Rights() []Right {
	if r == RoleOwner {
		return Rights
	}
	return nil
}

// DefaultRights returns the rights a new token of this kind gets when none are
// asked for: a basic token all, an api token all but making basic and api
// tokens, the others none.
func (k TokenKind) DefaultRights() []Right {
	switch k {
	case TokenBasic:
		return Rights
	case TokenAPI:
		var out []Right
		for _, r := range Rights {
			if r != RightTokensAdmin {
				out = append(out, r)
			}
		}
		return out
	case TokenRegistration, TokenAccess:
	}
	return nil
}
