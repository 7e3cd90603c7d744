package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
	"socketxp/internal/api"
)

// The committed description is what the code says.
//go:generate go test -run ^TestOpenAPI$ . -update

// routeKey is where an operation carries its route.
const routeKey = "route"

// operation is a route of the REST API with what its description says of it.
type operation struct {
	route
	id, tag              string
	summary, description string
	status               int // of success; 0 for 200, or 204 without a body
}

// tags are the groups of the description, in its order.
var tags = []*huma.Tag{
	{Name: "Devices", Description: "Registered machines, their groups, and what they publish."},
	{Name: "Tokens", Description: "Credentials, each for one purpose and with an end."},
	{Name: "Terminals", Description: "Terminals of devices in a browser."},
	{Name: "Sessions", Description: "Who is reaching which device, and who was."},
	{Name: "Events", Description: "What changes, as it changes."},
	{Name: "Audit", Description: "Who did what: a chain of records that can't be changed unseen."},
	{Name: "Sign-in", Description: "People: sign-in by password, and what belongs to it."},
	{Name: "Gateway", Description: "The gateway itself, its set-up, and how a device registers."},
}

const apiDescription = `Send a token as ` + "`Authorization: Bearer TOKEN`" + ` (api or basic), or sign in and use the cookie; one of them, not both.

Errors are ` + "`application/problem+json`" + ` (RFC 9457) with a ` + "`code`" + ` that never changes its meaning. Parameters and fields that are not described here are refused.

Lists have pages: ask again with ` + "`cursor`" + ` set to the ` + "`next_cursor`" + ` of the answer, and all else as before.

Every write by a token or a sign-in takes an ` + "`Idempotency-Key`" + ` of 16 to 128 random characters: sent again with the same key within a day, it is not done again but answered as before.

Times are RFC 3339 in UTC, sizes are bytes, durations are seconds. Too many requests are refused with 429 and ` + "`Retry-After`" + `.`

func apiConfig() huma.Config {
	c := huma.DefaultConfig("SocketXP", "v1")
	c.CreateHooks = nil
	// The description is served by us; so is everything else.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.Info.Description = apiDescription
	c.Tags = tags
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":  {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "an auth token"},
		"signin": {Type: "apiKey", In: "cookie", Name: cookieName, Description: "the cookie of a sign-in"},
	}
	// Answers may get more fields one day; what is sent in is checked more strictly
	// below.
	c.AllowAdditionalPropertiesByDefault = true
	c.RejectUnknownQueryParameters = true
	format := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			if p, ok := v.(*problem); ok {
				v = p.Problem
			}
			return json.NewEncoder(w).Encode(v)
		},
		Unmarshal: socketxp.StrictUnmarshal,
	}
	c.Formats = map[string]huma.Format{"application/json": format, "json": format}
	return c
}

// add registers an operation of the REST API that is served by h.
func add[I, O any](r *router, op operation, h func(ctx context.Context, who caller, in *I) (*O, error)) {
	d := r.describe(op)
	huma.Register(r.api, d, func(ctx context.Context, in *I) (*O, error) {
		c := callOf(ctx)
		out, err := h(ctx, c.who, in)
		if err != nil {
			c.err = err
			return nil, newProblem(err)
		}
		return out, nil
	})
}

// addStream registers an operation that writes its own answer of a media type, or
// takes a body of it.
func (r *router) addStream(op operation, media string, params []*huma.Param, h func(http.ResponseWriter, *http.Request) error) {
	op.stream = true
	d := r.describe(op)
	d.Parameters = params
	content := map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: huma.TypeString}}}
	answer, status := &huma.Response{Description: http.StatusText(http.StatusOK), Content: content}, "200"
	if op.writes() {
		d.RequestBody = &huma.RequestBody{Required: true, Content: content}
		answer, status = &huma.Response{Description: http.StatusText(http.StatusNoContent)}, "204"
	}
	d.Responses = map[string]*huma.Response{
		status:    answer,
		"default": {Description: "Error", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: &huma.Schema{Ref: "#/components/schemas/Problem"}}}},
	}
	r.api.OpenAPI().AddOperation(&d)
	op.path = d.Path
	r.handle(op.route, h)
}

// describe returns the operation for huma and its description.
func (r *router) describe(op operation) huma.Operation {
	op.path = api.Prefix + op.path
	d := huma.Operation{
		OperationID: op.id, Method: op.method, Path: op.path, Tags: []string{op.tag}, Summary: op.summary, DefaultStatus: op.status,
		Metadata: map[string]any{routeKey: op.route},
		// The body is in memory before huma sees it: its own limits would only set
		// deadlines that outlive the reading.
		MaxBodyBytes: maxBody + 1, BodyReadTimeout: -1,
	}
	kinds := usableKinds(op.policy.purpose)
	notes := []string{strings.TrimSpace(op.description)}
	switch {
	case op.policy.purpose == socketxp.PurposePublic:
		notes = append(notes, "Needs no credential.")
		d.Security = []map[string][]string{{}}
	case op.policy.right != "":
		notes = append(notes, "For "+kinds+" with the right `"+string(op.policy.right)+"`.")
	default:
		notes = append(notes, "For "+kinds+".")
	}
	if op.policy.fresh {
		notes = append(notes, "Needs a password entered in the last 10 minutes.")
	}
	d.Description = strings.TrimSpace(strings.Join(notes, " "))
	for _, k := range socketxp.Kinds {
		if !socketxp.MayUse(k, op.policy.purpose) {
			continue
		}
		scheme := map[string][]string{"token": {}}
		if k == socketxp.KindSignIn {
			scheme = map[string][]string{"signin": {}}
		}
		if len(d.Security) == 0 || d.Security[len(d.Security)-1]["token"] == nil || k == socketxp.KindSignIn {
			d.Security = append(d.Security, scheme)
		}
	}
	if op.writes() && !op.stream && op.policy.purpose != socketxp.PurposePublic {
		shortest, longest := minIdempotencyKey, maxIdempotencyKey
		d.Parameters = append(d.Parameters, &huma.Param{
			Name: "Idempotency-Key", In: "header", Description: "random text: the same write sent again with it is not done again",
			Schema: &huma.Schema{Type: huma.TypeString, MinLength: &shortest, MaxLength: &longest},
		})
	}
	d.Extensions = map[string]any{"x-purpose": string(op.policy.purpose)}
	if op.policy.right != "" {
		d.Extensions["x-right"] = string(op.policy.right)
	}
	return d
}

// usableKinds lists, for people, what is good for a purpose.
func usableKinds(p socketxp.Purpose) string {
	var names []string
	for _, k := range socketxp.Kinds {
		if socketxp.MayUse(k, p) {
			if k == socketxp.KindSignIn {
				names = append(names, "a sign-in")
			} else {
				names = append(names, string(k)+" tokens")
			}
		}
	}
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// openAPI returns the description as JSON.
func (r *router) openAPI() ([]byte, error) {
	return json.MarshalIndent(r.api.OpenAPI(), "", "  ")
}
