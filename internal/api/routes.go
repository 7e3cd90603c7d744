package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"socketxp"
)

// Gateway says what everybody may know of the gateway.
func (c *Client) Gateway(ctx context.Context) (Gateway, error) {
	return get[Gateway](ctx, c, http.MethodGet, "/gateway", nil, nil)
}

// Register registers a device. The client's credential is the registration or
// basic token.
func (c *Client) Register(ctx context.Context, r RegisterRequest) (RegisterResponse, error) {
	return get[RegisterResponse](ctx, c, http.MethodPost, "/register", nil, r)
}

// Relogin gives a device a new key. The client's credential is a registration or
// basic token.
func (c *Client) Relogin(ctx context.Context, r ReloginRequest) (RegisterResponse, error) {
	return get[RegisterResponse](ctx, c, http.MethodPost, "/relogin", nil, r)
}

// SetUpState says whether the gateway waits for its first owner.
func (c *Client) SetUpState(ctx context.Context) (SetUpState, error) {
	return get[SetUpState](ctx, c, http.MethodGet, "/setup", nil, nil)
}

// SetUp makes the first owner, who is signed in then.
func (c *Client) SetUp(ctx context.Context, r SetUpRequest) (Me, error) {
	return get[Me](ctx, c, http.MethodPost, "/setup", nil, r)
}

// SignUp makes an account of the caller's own, if the address has none. SignIn says
// whether it was made: the answer is the same.
func (c *Client) SignUp(ctx context.Context, r SignUpRequest) error {
	return c.call(ctx, http.MethodPost, "/signup", nil, r, nil)
}

// SignIn signs a person in.
func (c *Client) SignIn(ctx context.Context, email, password string) (Me, error) {
	return get[Me](ctx, c, http.MethodPost, "/signin", nil, SignInRequest{Email: email, Password: password})
}

// SignOut ends the caller's sign-in.
func (c *Client) SignOut(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/signout", nil, nil, nil)
}

// Reauth enters the password again.
func (c *Client) Reauth(ctx context.Context, password string) (Me, error) {
	return get[Me](ctx, c, http.MethodPost, "/reauth", nil, ReauthRequest{Password: password})
}

// Me says who is calling.
func (c *Client) Me(ctx context.Context) (Me, error) {
	return get[Me](ctx, c, http.MethodGet, "/me", nil, nil)
}

// SetPassword changes the caller's password and ends all their other sign-ins.
func (c *Client) SetPassword(ctx context.Context, current, next string) (Me, error) {
	return get[Me](ctx, c, http.MethodPut, "/me/password", nil, PasswordRequest{Current: current, New: next})
}

// SignIns lists where the caller is signed in.
func (c *Client) SignIns(ctx context.Context) ([]SignIn, error) {
	page, err := get[Page[SignIn]](ctx, c, http.MethodGet, "/me/signins", nil, nil) //nolint:misspell // the plural of sign-in
	return page.Items, err
}

// SignOutEverywhere ends all of the caller's sign-ins, and no browser is known any more.
func (c *Client) SignOutEverywhere(ctx context.Context) error {
	return c.call(ctx, http.MethodDelete, "/me/signins", nil, nil, nil) //nolint:misspell // the plural of sign-in
}

// EndSignIn ends one of the caller's sign-ins.
func (c *Client) EndSignIn(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/me/signins/"+url.PathEscape(id), nil, nil, nil) //nolint:misspell // the plural of sign-in
}

// TokenList selects tokens; zero fields select all.
type TokenList struct {
	Kind   socketxp.TokenKind `query:"kind"`
	Live   bool               `query:"live"` // only those that can be used now
	Cursor string             `query:"cursor"`
	Limit  int                `query:"limit"`
}

// Tokens lists tokens, newest first.
func (c *Client) Tokens(ctx context.Context, l TokenList) (Page[Token], error) {
	return get[Page[Token]](ctx, c, http.MethodGet, "/tokens", queryOf(l), nil)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, r CreateTokenRequest) (CreatedToken, error) {
	return get[CreatedToken](ctx, c, http.MethodPost, "/tokens", nil, r)
}

// Token shows a token without its text.
func (c *Client) Token(ctx context.Context, id string) (Token, error) {
	return get[Token](ctx, c, http.MethodGet, "/tokens/"+url.PathEscape(id), nil, nil)
}

// RevokeToken ends a token and all that were made with it.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/tokens/"+url.PathEscape(id)+"/revoke", nil, nil, nil)
}

// RevealToken shows a token's text again.
func (c *Client) RevealToken(ctx context.Context, id string) (CreatedToken, error) {
	return get[CreatedToken](ctx, c, http.MethodPost, "/tokens/"+url.PathEscape(id)+"/reveal", nil, nil)
}

// ConfirmToken makes a token good again that is from before the gateway was restored
// from a backup.
func (c *Client) ConfirmToken(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/tokens/"+url.PathEscape(id)+"/confirm", nil, nil, nil)
}

// DeviceList selects devices; zero fields select all.
type DeviceList struct {
	Name    string       `query:"name"` // exactly
	Search  string       `query:"search"`
	Group   string       `query:"group"`
	Status  DeviceStatus `query:"status"`
	Version string       `query:"version"`
	Sort    string       `query:"sort"` // name, group, created_at or last_seen_at; "-" before it turns the order round
	Cursor  string       `query:"cursor"`
	Limit   int          `query:"limit"`
}

// Devices lists devices.
func (c *Client) Devices(ctx context.Context, l DeviceList) (DevicePage, error) {
	return get[DevicePage](ctx, c, http.MethodGet, "/devices", queryOf(l), nil)
}

// PreRegister registers a device ahead of time and answers its key, once.
func (c *Client) PreRegister(ctx context.Context, r PreRegisterRequest) (PreRegistered, error) {
	return get[PreRegistered](ctx, c, http.MethodPost, "/devices", nil, r)
}

// Device shows a device.
func (c *Client) Device(ctx context.Context, id string) (Device, error) {
	return get[Device](ctx, c, http.MethodGet, "/devices/"+url.PathEscape(id), nil, nil)
}

// UpdateDevice renames or moves a device.
func (c *Client) UpdateDevice(ctx context.Context, id string, r UpdateDeviceRequest) (Device, error) {
	return get[Device](ctx, c, http.MethodPatch, "/devices/"+url.PathEscape(id), nil, r)
}

// DisableDevice cuts a device off and keeps it off.
func (c *Client) DisableDevice(ctx context.Context, id string) (Device, error) {
	return get[Device](ctx, c, http.MethodPost, "/devices/"+url.PathEscape(id)+"/disable", nil, nil)
}

// EnableDevice lets a disabled device connect again.
func (c *Client) EnableDevice(ctx context.Context, id string) (Device, error) {
	return get[Device](ctx, c, http.MethodPost, "/devices/"+url.PathEscape(id)+"/enable", nil, nil)
}

// ReleaseDevice ends a device's quarantine.
func (c *Client) ReleaseDevice(ctx context.Context, id string) (Device, error) {
	return get[Device](ctx, c, http.MethodPost, "/devices/"+url.PathEscape(id)+"/release", nil, nil)
}

// DeleteDevice removes a device.
func (c *Client) DeleteDevice(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/devices/"+url.PathEscape(id), nil, nil, nil)
}

// Groups lists the groups.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	page, err := get[Page[Group]](ctx, c, http.MethodGet, "/groups", nil, nil)
	return page.Items, err
}

// CreateGroup makes a group.
func (c *Client) CreateGroup(ctx context.Context, name string) (Group, error) {
	return get[Group](ctx, c, http.MethodPost, "/groups", nil, GroupRequest{Name: name})
}

// RenameGroup renames a group; its devices stay in it.
func (c *Client) RenameGroup(ctx context.Context, name, newName string) (Group, error) {
	return get[Group](ctx, c, http.MethodPatch, "/groups/"+url.PathEscape(name), nil, GroupRequest{Name: newName})
}

// DeleteGroup removes an empty group.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/groups/"+url.PathEscape(name), nil, nil, nil)
}

// TunnelList selects tunnels; zero fields select all.
type TunnelList struct {
	DeviceID string `query:"device_id"`
	Cursor   string `query:"cursor"`
	Limit    int    `query:"limit"`
}

// Tunnels lists what devices publish.
func (c *Client) Tunnels(ctx context.Context, l TunnelList) (Page[DeviceTunnel], error) {
	return get[Page[DeviceTunnel]](ctx, c, http.MethodGet, "/tunnels", queryOf(l), nil)
}

// SessionList selects sessions; zero fields select all.
type SessionList struct {
	DeviceID string `query:"device_id"`
	UserID   string `query:"user_id"`
	TokenID  string `query:"token_id"`
	Live     *bool  `query:"live"`
	Cursor   string `query:"cursor"`
	Limit    int    `query:"limit"`
}

// Sessions lists sessions, newest first.
func (c *Client) Sessions(ctx context.Context, l SessionList) (Page[Session], error) {
	return get[Page[Session]](ctx, c, http.MethodGet, "/sessions", queryOf(l), nil)
}

// Session shows a session.
func (c *Client) Session(ctx context.Context, id string) (Session, error) {
	return get[Session](ctx, c, http.MethodGet, "/sessions/"+url.PathEscape(id), nil, nil)
}

// EndSession cuts a session.
func (c *Client) EndSession(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/sessions/"+url.PathEscape(id)+"/end", nil, nil, nil)
}

// EventList selects events; zero fields select all.
type EventList struct {
	DeviceID string             `query:"device_id"`
	Type     socketxp.EventType `query:"type"`
	Cursor   string             `query:"cursor"`
	Limit    int                `query:"limit"`
}

// Events lists events, newest first.
func (c *Client) Events(ctx context.Context, l EventList) (Page[Event], error) {
	return get[Page[Event]](ctx, c, http.MethodGet, "/events", queryOf(l), nil)
}

// StreamEvents calls fn for every event after the one with id after, or from now
// on if that is empty, until ctx is done, the gateway ends the stream (then it
// returns nil) or fn returns an error.
func (c *Client) StreamEvents(ctx context.Context, after string, fn func(Event) error) error {
	header := http.Header{"Accept": {"text/event-stream"}}
	if after != "" {
		header.Set("Last-Event-ID", after)
	}
	resp, err := c.send(ctx, http.MethodGet, "/events/stream", nil, header, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<10) // an event has less than 2 KiB
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("event stream: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("event stream: %w", err)
	}
	return nil
}

// AuditList selects audit records; zero fields select all.
type AuditList struct {
	Action  string `query:"action"`
	ActorID string `query:"actor_id"`
	Cursor  string `query:"cursor"`
	Limit   int    `query:"limit"`
}

// Audit lists audit records, newest first.
func (c *Client) Audit(ctx context.Context, l AuditList) (Page[AuditRecord], error) {
	return get[Page[AuditRecord]](ctx, c, http.MethodGet, "/audit", queryOf(l), nil)
}

// ExportAudit writes the whole chain to w, one JSON object a line, oldest first.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/audit/export", nil, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(w, resp.Body)
	return err
}

// VerifyAudit has the gateway check the chain.
func (c *Client) VerifyAudit(ctx context.Context) (AuditVerification, error) {
	return get[AuditVerification](ctx, c, http.MethodGet, "/audit/verify", nil, nil)
}

// queryOf returns the fields of a list that are set.
func queryOf(list any) url.Values {
	q := url.Values{}
	v := reflect.ValueOf(list)
	for f, value := range v.Fields() {
		if value.IsZero() {
			continue
		}
		switch value = reflect.Indirect(value); value.Kind() { //nolint:exhaustive // a list has these kinds of fields
		case reflect.String:
			q.Set(f.Tag.Get("query"), value.String())
		case reflect.Int:
			q.Set(f.Tag.Get("query"), strconv.FormatInt(value.Int(), 10))
		case reflect.Bool:
			q.Set(f.Tag.Get("query"), strconv.FormatBool(value.Bool()))
		}
	}
	return q
}
