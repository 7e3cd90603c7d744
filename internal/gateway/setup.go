package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"socketxp"
	"socketxp/internal/api"
)

// setUpSetting keeps the SHA-256 of the secret in the set-up link, in hexadecimal.
const setUpSetting = "setup_secret_hash"

// setUpSecretSize is that of the random value in the link.
const setUpSecretSize = 32

// prepareSetup makes a new set-up link if there is no user, and returns it, or ""
// if there is one. The link of before is good no more.
func (g *Gateway) prepareSetup(ctx context.Context) (link string, err error) {
	users, err := g.store.CountUsers(ctx)
	if err != nil || users > 0 {
		return "", err
	}
	var secret [setUpSecretSize]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", err
	}
	sum := sha256.Sum256(secret[:])
	if err := g.store.SetSetting(ctx, setUpSetting, hex.EncodeToString(sum[:])); err != nil {
		return "", fmt.Errorf("keep the set-up secret: %w", err)
	}
	return g.url + "/setup#" + base64.RawURLEncoding.EncodeToString(secret[:]), nil
}

type gatewayOut struct{ Body api.Gateway }

func (g *Gateway) showGateway(ctx context.Context, _ caller, _ *struct{}) (*gatewayOut, error) {
	needed, err := g.setUpNeeded(ctx)
	if err != nil {
		return nil, err
	}
	return &gatewayOut{api.Gateway{Version: g.version, APIVersions: []string{"v1"}, SetUp: !needed, SignUp: g.cfg.SignUp && !needed}}, nil
}

func (g *Gateway) setUpNeeded(ctx context.Context) (bool, error) {
	users, err := g.store.CountUsers(ctx)
	return users == 0, err
}

type setUpStateOut struct{ Body api.SetUpState }

func (g *Gateway) setUpState(ctx context.Context, _ caller, _ *struct{}) (*setUpStateOut, error) {
	needed, err := g.setUpNeeded(ctx)
	if err != nil {
		return nil, err
	}
	return &setUpStateOut{api.SetUpState{Needed: needed}}, nil
}

type setUpIn struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      api.SetUpRequest
}

// setUp makes the first owner with the secret of the set-up link, and signs them
// in. It can be done once: the store counts the users in the same transaction.
func (g *Gateway) setUp(ctx context.Context, _ caller, in *setUpIn) (*meOut, error) {
	c := callOf(ctx)
	if err := g.rest.signIns.take(network(c.remote)).err(); err != nil {
		return nil, err
	}
	needed, err := g.setUpNeeded(ctx)
	if err != nil {
		return nil, err
	}
	if !needed {
		return nil, errSetUp
	}
	actor := socketxp.Actor{Kind: socketxp.KindNone, RemoteAddr: c.remote.String()}
	if err := g.checkSetUpSecret(ctx, in.Body.Secret); err != nil {
		g.auditRefusal(ctx, socketxp.AuditEntry{Action: "account.create", Actor: actor, Detail: "set-up"}, err)
		return nil, err
	}
	account, user, err := g.newOwner(ctx, api.SignUpRequest{Email: in.Body.Email, Password: in.Body.Password, Name: in.Body.Name, Account: in.Body.Account})
	if err != nil {
		return nil, err
	}
	actor.UserID = user.ID
	err = g.store.CreateAccount(ctx, account, user, true, socketxp.AuditEntry{
		AccountID: account.ID, At: account.CreatedAt, Actor: actor, Action: "account.create",
		ObjectKind: "account", ObjectID: account.ID, ObjectName: account.Name, Detail: "set-up",
	})
	if errors.Is(err, socketxp.ErrConflict) {
		return nil, errSetUp
	}
	if err != nil {
		return nil, err
	}
	if err := g.store.SetSetting(ctx, setUpSetting, ""); err != nil {
		g.log.Warn("the set-up secret was not removed; with a user there it is good for nothing", "error", err)
	}
	g.log.Info("the gateway was set up", "account", account.ID, "user", user.ID)
	return g.startSignIn(ctx, user, account.ID, in.UserAgent, "signin.create")
}

var errSetUp = socketxp.Errorf(socketxp.CodeConflict, "the gateway is set up already").WithHint("sign in, or ask its owner for an account")

func (g *Gateway) checkSetUpSecret(ctx context.Context, text string) error {
	bad := socketxp.Errorf(socketxp.CodeForbidden, "the set-up link is not valid").WithHint("use the one that the gateway printed when it was last started")
	kept, err := g.store.Setting(ctx, setUpSetting)
	if errors.Is(err, socketxp.ErrNotFound) {
		return bad
	}
	if err != nil {
		return err
	}
	want, err := hex.DecodeString(kept)
	if err != nil || len(want) != sha256.Size {
		return bad
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(secret) != setUpSecretSize {
		return bad
	}
	got := sha256.Sum256(secret)
	if subtle.ConstantTimeCompare(got[:], want) != 1 {
		return bad
	}
	return nil
}

// newOwner checks what the owner of a new account chose.
func (g *Gateway) newOwner(ctx context.Context, req api.SignUpRequest) (socketxp.Account, socketxp.User, error) {
	now := g.now()
	account := socketxp.Account{
		ID: socketxp.NewID(now), Name: strings.TrimSpace(req.Account), CreatedAt: now,
		BasicTokens: true, BasicLife: socketxp.DefaultBasicLife, DeviceQuota: socketxp.DefaultDeviceQuota,
	}
	user := socketxp.User{ID: socketxp.NewID(now), Name: strings.TrimSpace(req.Name), CreatedAt: now}
	var err error
	if user.Email, err = socketxp.NormalizeEmail(req.Email); err != nil {
		return account, user, err
	}
	if account.Name == "" {
		return account, user, socketxp.Errorf(socketxp.CodeInvalid, "the account has no name")
	}
	if err := socketxp.CheckDisplayText("account's name", account.Name, 128); err != nil {
		return account, user, err
	}
	if err := socketxp.CheckDisplayText("name", user.Name, 128); err != nil {
		return account, user, err
	}
	if err := socketxp.CheckPassword(req.Password, user.Email); err != nil {
		return account, user, err
	}
	user.PasswordHash, err = g.rest.passwords.hash(ctx, req.Password)
	return account, user, err
}
