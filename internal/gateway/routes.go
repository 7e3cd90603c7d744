package gateway

import (
	"net/http"

	"socketxp"
	"socketxp/internal/api"
)

// The methods, short for the table below.
const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	patch  = http.MethodPatch
	remove = http.MethodDelete
)

func read(path string, right socketxp.Right) route {
	return route{method: get, path: path, policy: needs(right)}
}

func write(method, path string, right socketxp.Right, action string) route {
	return route{method: method, path: path, policy: needs(right), action: action}
}

// addAPI registers the REST API.
func (r *router) addAPI() {
	r.addDevices()
	r.addTokens()
	r.addTerminals()
	r.addRecords()
	r.addPeople()
	r.addAuthorizations()
	r.addGateway()
}

func (r *router) addDevices() {
	g := r.g
	const tag = "Devices"
	add(r, operation{route: read("/devices", socketxp.RightDevicesRead), id: "list-devices", tag: tag, summary: "List devices"}, g.listDevices)
	add(r, operation{
		route: write(post, "/devices", socketxp.RightDevicesWrite, "device.pre-register"), id: "pre-register-device", tag: tag, status: http.StatusCreated,
		summary:     "Register a device ahead of time",
		description: "For factories: answers the content of the device's `device.key` file, once. With that file and a `config.json` the device starts without a login.",
	}, g.preRegister)
	add(r, operation{route: read("/devices/{id}", socketxp.RightDevicesRead), id: "show-device", tag: tag, summary: "Show a device"}, g.showDevice)
	add(r, operation{
		route: write(patch, "/devices/{id}", socketxp.RightDevicesWrite, "device.update"), id: "update-device", tag: tag, summary: "Rename or move a device",
		description: "A move to another group takes effect at once, on what is open too.",
	}, g.updateDevice)
	add(r, operation{
		route: write(post, "/devices/{id}/disable", socketxp.RightDevicesWrite, "device.disable"), id: "disable-device", tag: tag, summary: "Disable a device",
		description: "Cuts its control channel and all links, and keeps it off until it is enabled.",
	}, g.disableDevice)
	add(r, operation{route: write(post, "/devices/{id}/enable", socketxp.RightDevicesWrite, "device.enable"), id: "enable-device", tag: tag, summary: "Enable a device"}, g.enableDevice)
	add(r, operation{
		route: write(post, "/devices/{id}/release", socketxp.RightDevicesWrite, "device.release"), id: "release-device", tag: tag, summary: "Release a device from quarantine",
		description: "Ends the quarantine and begins the device's sequence anew: whoever connects next with its key is taken for the device. " +
			"For a machine that was set back to a snapshot or restored from a backup, and only if no other copy of its key is left: otherwise `socketxp relogin` on the genuine machine is the way.",
	}, g.releaseDevice)
	add(r, operation{
		route: write(remove, "/devices/{id}", socketxp.RightDevicesWrite, "device.delete"), id: "delete-device", tag: tag, summary: "Delete a device",
		description: "Cuts it off; it can come back only by being registered again. Its sessions and audit records stay.",
	}, g.deleteDevice)
	add(r, operation{route: read("/groups", socketxp.RightDevicesRead), id: "list-groups", tag: tag, summary: "List groups"}, g.listGroups)
	add(r, operation{route: write(post, "/groups", socketxp.RightDevicesWrite, "group.create"), id: "create-group", tag: tag, summary: "Make a group", status: http.StatusCreated}, g.createGroup)
	add(r, operation{
		route: write(patch, "/groups/{name}", socketxp.RightDevicesWrite, "group.rename"), id: "rename-group", tag: tag, summary: "Rename a group",
		description: "Its devices stay in it. Tokens that name the group by its old name don't reach them any more.",
	}, g.renameGroup)
	add(r, operation{route: write(remove, "/groups/{name}", socketxp.RightDevicesWrite, "group.delete"), id: "delete-group", tag: tag, summary: "Delete an empty group"}, g.deleteGroup)
	add(r, operation{route: read("/tunnels", socketxp.RightDevicesRead), id: "list-tunnels", tag: tag, summary: "List what devices publish"}, g.listTunnels)
}

func (r *router) addTokens() {
	g := r.g
	const tag = "Tokens"
	add(r, operation{route: read("/tokens", socketxp.RightTokensRead), id: "list-tokens", tag: tag, summary: "List tokens", description: "Newest first."}, g.listTokens)
	add(r, operation{
		route: write(post, "/tokens", socketxp.RightTokensWrite, "token.create"), id: "create-token", tag: tag, summary: "Make a token", status: http.StatusCreated,
		description: "Short lives are better. A token made with a token ends with it, and can't do or reach more. Basic and api tokens also need the right `tokens:admin`.",
	}, g.createToken)
	add(r, operation{route: read("/tokens/{id}", socketxp.RightTokensRead), id: "show-token", tag: tag, summary: "Show a token", description: "Without its text."}, g.showToken)
	add(r, operation{
		route: write(post, "/tokens/{id}/revoke", socketxp.RightTokensWrite, "token.revoke"), id: "revoke-token", tag: tag, summary: "Revoke a token",
		description: "Ends it and all tokens made with it, at once, and cuts what is open by them. Devices that it registered stay.",
	}, g.revokeToken)
	add(r, operation{
		route: route{method: post, path: "/tokens/{id}/confirm", policy: policy{purpose: socketxp.PurposePortal, right: socketxp.RightTokensAdmin, fresh: true}, action: "token.confirm"},
		id:    "confirm-token", tag: tag, summary: "Confirm a token after a restore",
		description: "A gateway that was restored from a backup can't know which tokens were revoked since: those from before are `unconfirmed` and good for nothing until an owner confirms each.",
	}, g.confirmToken)
	add(r, operation{
		route: route{method: post, path: "/tokens/{id}/reveal", policy: policy{purpose: socketxp.PurposePortal, right: socketxp.RightTokensRead, fresh: true}, action: "token.reveal"},
		id:    "reveal-token", tag: tag, summary: "Show a token's text again",
		description: "For its maker or an owner. It can be switched off for the whole gateway.",
	}, g.revealToken)
}

func (r *router) addRecords() {
	g := r.g
	add(r, operation{route: read("/sessions", socketxp.RightSessionsRead), id: "list-sessions", tag: "Sessions", summary: "List sessions", description: "Newest first."}, g.listSessions)
	add(r, operation{route: read("/sessions/{id}", socketxp.RightSessionsRead), id: "show-session", tag: "Sessions", summary: "Show a session"}, g.showSession)
	add(r, operation{
		route: write(post, "/sessions/{id}/end", socketxp.RightSessionsWrite, "session.cut"), id: "end-session", tag: "Sessions", summary: "End a session",
		description: "Cuts its links. The token stays good: revoke it to keep the visitor out.",
	}, g.cutSession)
	add(r, operation{route: read("/events", socketxp.RightEventsRead), id: "list-events", tag: "Events", summary: "List events", description: "Newest first. Events are kept for 30 days."}, g.listEvents)
	r.addStream(operation{
		route: read("/events/stream", socketxp.RightEventsRead), id: "stream-events", tag: "Events", summary: "Follow events live",
		description: "Server-sent events: the data of each is an event as in the list. The stream ends when the credential does.",
	}, "text/event-stream", streamParams, g.streamEvents)
	add(r, operation{route: read("/audit", socketxp.RightAuditRead), id: "list-audit", tag: "Audit", summary: "List audit records", description: "Newest first."}, g.listAudit)
	r.addStream(operation{
		route: read("/audit/export", socketxp.RightAuditRead), id: "export-audit", tag: "Audit", summary: "Export the audit chain",
		description: "All records, oldest first, one JSON object a line: enough to verify the chain elsewhere.",
	}, "application/jsonl", nil, g.exportAudit)
	add(r, operation{route: read("/audit/verify", socketxp.RightAuditRead), id: "verify-audit", tag: "Audit", summary: "Verify the audit chain"}, g.verifyAudit)
}

func (r *router) addPeople() {
	g := r.g
	const tag = "Sign-in"
	add(r, operation{
		route: route{method: post, path: "/signin", policy: public, action: "signin.create"}, id: "sign-in", tag: tag, summary: "Sign in",
		description: "Sets the cookie `" + cookieName + "`, and `" + api.KnownCookie + "`: sent with a later sign-in, that one is not held up by what strangers guess. It is good for nothing else.",
	}, g.signIn)
	add(r, operation{
		route: route{method: post, path: "/signup", policy: public, action: "account.create"}, id: "sign-up", tag: tag, summary: "Make an account of one's own", status: http.StatusAccepted,
		description: "Where the gateway allows it (`sign_up`). The account is a new one, whatever the email address. The answer is the same if the address has an account already, which stays as it is: sign in to find out.",
	}, g.signUp)
	add(r, operation{route: route{method: post, path: "/signout", policy: personal, action: "signin.end"}, id: "sign-out", tag: tag, summary: "Sign out"}, g.signOut)
	add(r, operation{
		route: route{method: post, path: "/reauth", policy: personal, action: "signin.reauth"}, id: "reauthenticate", tag: tag, summary: "Enter the password again",
		description: "For 10 minutes it then counts as just entered. Sets a new cookie.",
	}, g.reauth)
	add(r, operation{route: read("/me", socketxp.RightAccountRead), id: "show-me", tag: tag, summary: "Show who is calling"}, g.me)
	add(r, operation{
		route: route{method: put, path: "/me/password", policy: personal, action: "user.set-password"}, id: "set-password", tag: tag, summary: "Change the password",
		description: "Ends all other sign-ins, and no other browser is known any more. Sets new cookies.",
	}, g.setPassword)
	add(r, operation{route: route{method: get, path: "/me/signins", policy: personal}, id: "list-sign-ins", tag: tag, summary: "List where the caller is signed in"}, g.listSignIns) //nolint:misspell // the plural of sign-in
	add(r, operation{
		route: route{method: remove, path: "/me/signins", policy: personal, action: "signin.end-all"}, id: "sign-out-everywhere", tag: tag, summary: "Sign out everywhere", //nolint:misspell // the plural of sign-in
		description: "Ends all of the caller's sign-ins, this one too, and no browser is known any more. Tokens stay: they are revoked one by one.",
	}, g.signOutEverywhere)
	add(r, operation{route: route{method: remove, path: "/me/signins/{id}", policy: personal, action: "signin.end"}, id: "end-sign-in", tag: tag, summary: "End one of the caller's sign-ins"}, g.deleteSignIn) //nolint:misspell // the plural of sign-in
}

func (r *router) addAuthorizations() {
	g := r.g
	const tag = "Sign-in"
	add(r, operation{
		route: route{method: post, path: "/device-authorization", policy: public, action: "authorization.create"}, id: "authorize-device", tag: tag,
		summary:     "Ask to act for a person",
		description: "For programs without a browser (RFC 8628, in JSON). Show the person the user code and the address, and poll with the device code, which is a secret.",
	}, g.authorizeDevice)
	add(r, operation{
		route: route{method: post, path: "/device-authorization/token", policy: public, action: "authorization.use"}, id: "poll-authorization", tag: tag,
		summary: "Get the token that a person has approved",
		description: "Once. Until then the code is `authorization_pending`, `slow_down` (wait for 5 s more between polls from now on), `access_denied`, or `expired_token`. " +
			"The token is of kind api, has all rights of the person, and shows in the list of tokens.",
	}, g.pollAuthorization)
	add(r, operation{
		route: write(post, "/device-authorization/show", socketxp.RightAccountRead, "authorization.show"), id: "show-authorization", tag: tag,
		summary: "Show who asks by a user code", description: "Changes nothing.",
	}, g.showAuthorization)
	add(r, operation{
		route: write(post, "/device-authorization/confirm", socketxp.RightAccountRead, "authorization.confirm"), id: "confirm-authorization", tag: tag,
		summary:     "Approve or deny who asks by a user code",
		description: "A token needs the right `tokens:admin` besides; the token that is made by its approval ends with it, and can't do more.",
	}, g.confirmAuthorization)
}

func (r *router) addGateway() {
	g := r.g
	const tag = "Gateway"
	add(r, operation{route: route{method: get, path: "/gateway", policy: public}, id: "show-gateway", tag: tag, summary: "Show the gateway"}, g.showGateway)
	add(r, operation{route: route{method: get, path: "/setup", policy: public}, id: "show-setup", tag: tag, summary: "Ask whether the first owner is still to be made"}, g.setUpState)
	add(r, operation{
		route: route{method: post, path: "/setup", policy: public, action: "account.create"}, id: "set-up", tag: tag, summary: "Make the first owner",
		description: "With the secret of the one-time link that the gateway prints at its start. Signs the owner in.",
	}, g.setUp)
	add(r, operation{
		route: route{method: post, path: "/register", policy: policy{purpose: socketxp.PurposeRegister}, action: "device.register"},
		id:    "register-device", tag: tag, summary: "Register a device",
		description: "What `socketxp login` does. The same key registering again gets the device it has, and takes no use of the token.",
	}, g.register)
	add(r, operation{
		route: route{method: post, path: "/relogin", policy: policy{purpose: socketxp.PurposeRegister}, action: "device.relogin"},
		id:    "relogin-device", tag: tag, summary: "Give a device a new key",
		description: "What `socketxp relogin` does, for a device whose key is in other hands. Id, name and group stay; quarantine and the keys of before end. The same request again changes nothing, and takes no use of the token.",
	}, g.relogin)
}
