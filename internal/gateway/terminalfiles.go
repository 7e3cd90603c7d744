package gateway

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"socketxp"
	"socketxp/internal/api"
	"socketxp/internal/terminal"
)

func (r *router) addTerminalFiles() {
	g := r.g
	const tag = "Terminals"
	with := func(method, path, action string) route {
		return route{method: method, path: "/terminals/{id}/files" + path, policy: terminalPolicy, action: action}
	}
	pathQuery := &huma.Param{Name: "path", In: "query", Required: true, Schema: &huma.Schema{Type: huma.TypeString, MaxLength: new(4096)}}
	add(r, operation{
		route: with(get, "", ""), id: "list-files", tag: tag, summary: "List a folder of the device",
		description: "By SFTP on the terminal's own connection, as the terminal's user. At most 5,000 entries.",
	}, g.listFiles)
	r.addStream(operation{
		route: with(get, "/content", ""), id: "download-file", tag: tag, summary: "Get a file of the device",
	}, "application/octet-stream", []*huma.Param{pathID, pathQuery}, g.downloadFile)
	r.addStream(operation{
		route: with(put, "/content", "file.upload"), id: "upload-file", tag: tag, status: http.StatusNoContent, summary: "Put a file on the device",
		description: "The body is the content. The file is there whole or not at all.",
	}, "application/octet-stream", []*huma.Param{pathID, pathQuery, {
		Name: "overwrite", In: "query", Description: "true puts it in the place of a file that is there", Schema: &huma.Schema{Type: huma.TypeBoolean},
	}}, g.uploadFile)
	add(r, operation{
		route: with(post, "/directory", "file.make-directory"), id: "make-directory", tag: tag, status: http.StatusCreated, summary: "Make a folder on the device",
	}, g.makeDirectory)
}

type filesIn struct {
	ID   string `path:"id" maxLength:"100"`
	Path string `query:"path" maxLength:"4096" doc:"without it, the user's home folder"`
}

type filesOut struct{ Body api.Files }

func (g *Gateway) listFiles(ctx context.Context, who caller, in *filesIn) (*filesOut, error) {
	t, err := g.terminals.find(who, in.ID)
	if err != nil {
		return nil, err
	}
	if err := terminal.CheckPath(in.Path); err != nil {
		return nil, err
	}
	dir, entries, truncated, err := t.term.List(ctx, in.Path)
	if err != nil {
		return nil, err
	}
	return &filesOut{api.Files{Path: dir, Truncated: truncated, Entries: mapped(entries, func(f terminal.File) api.File { return api.File(f) })}}, nil
}

type directoryIn struct {
	ID   string `path:"id" maxLength:"100"`
	Body api.DirectoryRequest
}

func (g *Gateway) makeDirectory(ctx context.Context, who caller, in *directoryIn) (*struct{}, error) {
	t, err := g.terminals.find(who, in.ID)
	if err != nil {
		return nil, err
	}
	if err := terminal.CheckPath(in.Body.Path); err != nil {
		return nil, err
	}
	if err := g.auditFile(ctx, t, who, "file.make-directory", in.Body.Path, "", nil); err != nil {
		return nil, err
	}
	return nil, t.term.MakeDirectory(ctx, in.Body.Path)
}

// auditFile records what is about to be done with a file, or how it ended.
func (g *Gateway) auditFile(ctx context.Context, t *webTerminal, who caller, action, path, detail string, ended error) error {
	entry := g.entry(who, action, "session", t.id(), t.visit.session.DeviceName)
	entry.Detail = clipText(strings.Map(func(r rune) rune {
		if r != ' ' && socketxp.CheckDisplayText("", string(r), 1) != nil {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(path, "?"))) + detail
	if ended != nil {
		entry.Reason = socketxp.CodeOf(ended)
	}
	asked, cancel := g.asked(ctx)
	defer cancel()
	if _, err := g.store.AppendAudit(asked, entry); err != nil {
		g.storeFailed("a transfer was not recorded", err)
		return unavailable(err)
	}
	return nil
}

// fileQuery returns the terminal that a request is about, and its path.
func (g *Gateway) fileQuery(req *http.Request, others ...string) (*webTerminal, url.Values, error) {
	t, err := g.terminals.find(callOf(req.Context()).who, req.PathValue("id"))
	if err != nil {
		return nil, nil, err
	}
	q := req.URL.Query()
	for name := range q {
		if name != "path" && (len(others) == 0 || name != others[0]) {
			return nil, nil, socketxp.Errorf(socketxp.CodeInvalid, "there is no query parameter %s", clipText(name))
		}
	}
	if q.Get("path") == "" {
		return nil, nil, socketxp.Errorf(socketxp.CodeInvalid, "a path is needed")
	}
	return t, q, terminal.CheckPath(q.Get("path"))
}

// transferWithin is how long the browser may take for each piece of a transfer.
const transferWithin = 30 * time.Second

func (g *Gateway) downloadFile(w http.ResponseWriter, req *http.Request) error {
	t, q, err := g.fileQuery(req)
	if err != nil {
		return err
	}
	ctx, who, path := req.Context(), callOf(req.Context()).who, q.Get("path")
	if err := g.auditFile(ctx, t, who, "file.download", path, "", nil); err != nil {
		return err
	}
	begun := false
	written, err := t.term.Download(ctx, path, func(name string, size int64) (io.Writer, error) {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		h.Set("Content-Disposition", attachment(name))
		h.Set("Content-Security-Policy", apiCSP+"; sandbox")
		begun = true
		return &timedWriter{w, http.NewResponseController(w)}, nil
	})
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(transferWithin)) // for what is sent last
	_ = g.auditFile(ctx, t, who, "file.download-end", path, fmt.Sprintf(", %d bytes", written), err)
	if err != nil && begun {
		panic(http.ErrAbortHandler) // it has begun: what is missing must not look like the end
	}
	return err
}

// attachment names a file as one that is saved and not shown (RFC 6266).
func attachment(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' || r == '\\' || r != ' ' && socketxp.CheckDisplayText("", string(r), 1) != nil {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	if text := mime.FormatMediaType("attachment", map[string]string{"filename": name}); text != "" {
		return text
	}
	return "attachment"
}

// timedWriter gives each write its time.
type timedWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (t *timedWriter) Write(b []byte) (int, error) {
	_ = t.control.SetWriteDeadline(time.Now().Add(transferWithin))
	// The device's time is none of the browser's; and over HTTP/2 a deadline that was
	// missed once is for good.
	defer func() { _ = t.control.SetWriteDeadline(time.Time{}) }()
	return t.w.Write(b)
}

// timedReader gives each read its time.
type timedReader struct {
	r       io.Reader
	control *http.ResponseController
}

func (t *timedReader) Read(b []byte) (int, error) {
	_ = t.control.SetReadDeadline(time.Now().Add(transferWithin))
	defer func() { _ = t.control.SetReadDeadline(time.Time{}) }()
	return t.r.Read(b)
}

func (g *Gateway) uploadFile(w http.ResponseWriter, req *http.Request) error {
	t, q, err := g.fileQuery(req, "overwrite")
	if err != nil {
		return err
	}
	overwrite, err := strconv.ParseBool(q.Get("overwrite"))
	if q.Has("overwrite") && err != nil {
		return socketxp.Errorf(socketxp.CodeInvalid, "overwrite is true or false")
	}
	ctx, who, path := req.Context(), callOf(req.Context()).who, q.Get("path")
	if err := g.auditFile(ctx, t, who, "file.upload", path, "", nil); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	// It may take longer to answer than for another request.
	_ = control.SetWriteDeadline(time.Time{})
	_ = control.SetReadDeadline(time.Time{})
	written, err := t.term.Upload(ctx, path, overwrite, &timedReader{req.Body, control})
	_ = control.SetWriteDeadline(time.Now().Add(transferWithin))
	_ = g.auditFile(ctx, t, who, "file.upload-end", path, fmt.Sprintf(", %d bytes", written), err)
	if err != nil {
		callOf(req.Context()).audited = true
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
