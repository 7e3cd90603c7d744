package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"socketxp"
	"socketxp/internal/agent"
	"socketxp/internal/api"

	"github.com/spf13/cobra"
)

func (a *app) auditCommand() *cobra.Command {
	return parent("audit", "Read, export and verify the audit",
		"The audit says who did what, and what was refused. Its records are chained by their hashes: none can be changed or left out unseen.",
		a.auditList(), a.auditExport(), a.auditVerify())
}

var auditTable = list[api.AuditRecord]{
	id: func(r api.AuditRecord) string { return strconv.FormatInt(r.Seq, 10) }, none: "there are no such records", next: "leave the filters out",
	columns: []column[api.AuditRecord]{
		{name: "SEQ", show: func(r api.AuditRecord) string { return strconv.FormatInt(r.Seq, 10) }},
		{name: "AT", show: func(r api.AuditRecord) string { return r.At.Local().Format(time.DateTime) }, value: func(r api.AuditRecord) string { return exact(r.At) }},
		{name: "ACTION", show: func(r api.AuditRecord) string { return r.Action }},
		{name: "RESULT", show: func(r api.AuditRecord) string {
			if r.Reason == "" {
				return "done"
			}
			return string(r.Reason)
		}},
		{name: "BY", show: actor, shrinks: true},
		{name: "FROM", show: func(r api.AuditRecord) string { return r.RemoteAddr }, shrinks: true},
		{name: "OBJECT", show: func(r api.AuditRecord) string {
			if r.ObjectName != "" {
				return r.ObjectName
			}
			return r.ObjectID
		}, shrinks: true},
		{name: "DETAIL", show: func(r api.AuditRecord) string { return r.Detail }, shrinks: true},
	},
}

func actor(r api.AuditRecord) string {
	id := r.UserID
	if id == "" {
		id = r.DeviceID
	}
	return strings.TrimSpace(string(r.ActorKind) + " " + id)
}

func (a *app) auditList() *cobra.Command {
	var f listFlags
	var q api.AuditList
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List audit records, newest first", Args: usageArgs(noArgs),
		Example: "  socketxp audit ls --action token.create\n  socketxp audit ls --limit 1000 --output csv > audit.csv",
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&q.Action, "action", "", "those of this `ACTION`, for example device.delete")
	cmd.Flags().StringVar(&q.ActorID, "by", "", "those by the user, device or credential of this `ID`")
	cmd.RunE = a.withPerson(func(ctx context.Context, p *person, _ []string) error {
		return printList(ctx, a, f, auditTable, func(ctx context.Context) ([]api.AuditRecord, bool, error) {
			items, more, err := pages(f, func(cursor string, n int) ([]api.AuditRecord, string, error) {
				q := q
				q.Cursor, q.Limit = cursor, n
				page, err := p.Audit(ctx, q)
				return page.Items, page.NextCursor, err
			})
			return items, more, p.failed(err)
		})
	})
	return cmd
}

func (a *app) auditExport() *cobra.Command {
	return &cobra.Command{
		Use: "export [FILE]", Short: "Export the whole chain, one JSON object a line", Args: usageArgs(cobra.MaximumNArgs(1)),
		Long: `Writes all records, oldest first, to FILE, which must not be there, or to standard output.
"socketxp audit verify FILE" checks it without the gateway.`,
		RunE: a.withPerson(func(ctx context.Context, p *person, args []string) error {
			path := "-"
			if len(args) == 1 {
				path = args[0]
			}
			out, done, err := a.secretFile(path)
			if err != nil {
				return err
			}
			sink := &stickyWriter{out, new(error)}
			err = p.ExportAudit(ctx, sink)
			if *sink.err != nil {
				err = *sink.err
			} else {
				err = p.failed(err)
			}
			return errors.Join(err, done(err == nil))
		}),
	}
}

func (a *app) auditVerify() *cobra.Command {
	var f outputFlags
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "Verify the chain: the gateway's, or an export", Args: usageArgs(cobra.MaximumNArgs(1)),
		Long: `Checks that every record follows from the one before. Without FILE the gateway does it on
its database; with an export, this program does it by itself. An end that was cut off
shows only by the last hash: note it elsewhere, and compare.`,
		Example: "  socketxp audit verify\n  socketxp audit export audit.jsonl && socketxp audit verify audit.jsonl",
	}
	f.add(cmd, formTable, formJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var v api.AuditVerification
		verify := a.withPerson(func(ctx context.Context, p *person, _ []string) (err error) {
			v, err = p.VerifyAudit(ctx)
			return p.failed(err)
		})
		if len(args) == 1 {
			verify = func(_ *cobra.Command, args []string) (err error) {
				v, err = verifyExport(args[0])
				return err
			}
		}
		if err := verify(cmd, args); err != nil {
			return err
		}
		if f.form == formJSON {
			if err := a.printJSON(v); err != nil || v.OK {
				return err
			}
			return silent{}
		}
		if !v.OK {
			return fmt.Errorf("the chain is broken after %d good records: %s", v.Records, v.Broken)
		}
		a.say("The chain holds: %d records, the last hash is %s.", v.Records, agent.Printable(v.LastHash))
		return nil
	}
	return cmd
}

// longestRecord is more than a line of an export can have.
const longestRecord = 64 << 10

// verifyExport checks the chain of an export.
func verifyExport(path string) (api.AuditVerification, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the user's own choice
	if err != nil {
		return api.AuditVerification{}, err
	}
	defer func() { _ = f.Close() }()
	return verifyChain(f)
}

func verifyChain(r io.Reader) (api.AuditVerification, error) {
	v := api.AuditVerification{OK: true}
	var prev socketxp.AuditRecord
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longestRecord)
	broken := func(err error) (api.AuditVerification, error) {
		v.OK, v.Broken = false, fmt.Sprintf("line %d: %v", v.Records+1, err)
		return v, nil
	}
	for lines.Scan() {
		var line api.AuditRecord
		if err := socketxp.LaxUnmarshal(lines.Bytes(), &line); err != nil {
			return broken(err)
		}
		record := line.Domain()
		if err := socketxp.VerifyChain(prev, record); err != nil {
			return broken(err)
		}
		prev, v.LastHash = record, line.Hash
		v.Records++
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return broken(err)
	case err != nil:
		return v, err
	case v.Records == 0:
		v.OK, v.Broken = false, "there are no records"
	}
	return v, nil
}
