package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"socketxp"
	"socketxp/internal/store/sqlc"
)

// deviceColumns are the fields of sqlc.Device in their order.
const deviceColumns = `id, account_id, name, display_name, display_name_folded, group_name, public_key, created_at, created_by, token_id, ` +
	`disabled_at, last_seen_at, remote_addr, os, arch, kernel, hostname, hostname_folded, version, local_addrs, ssh_host_key, gateway_known_by, ` +
	`seq, seq_next, quarantined_at, quarantine_reason, key_since`

func scanDevice(rows *sql.Rows) (d sqlc.Device, err error) {
	err = rows.Scan(&d.ID, &d.AccountID, &d.Name, &d.DisplayName, &d.DisplayNameFolded, &d.GroupName, &d.PublicKey, &d.CreatedAt, &d.CreatedBy, &d.TokenID,
		&d.DisabledAt, &d.LastSeenAt, &d.RemoteAddr, &d.OS, &d.Arch, &d.Kernel, &d.Hostname, &d.HostnameFolded, &d.Version, &d.LocalAddrs, &d.SSHHostKey, &d.GatewayKnownBy,
		&d.Seq, &d.SeqNext, &d.QuarantinedAt, &d.QuarantineReason, &d.KeySince)
	return d, err
}

// deviceOrder is how a page is sorted: by a column, then by id. Each has an index.
type deviceOrder struct {
	column, index                string
	up, upAfter, down, downAfter string
	number                       bool // the column is one
}

var deviceOrders = map[socketxp.DeviceSort]deviceOrder{
	"": orderByName, socketxp.SortByName: orderByName,
	socketxp.SortByGroup: {
		column: "group_name", index: "devices_by_group",
		up: ` ORDER BY group_name, id`, upAfter: ` AND (group_name, id) > (?, ?)`,
		down: ` ORDER BY group_name DESC, id DESC`, downAfter: ` AND (group_name, id) < (?, ?)`,
	},
	socketxp.SortByCreated: {
		column: "created_at", index: "devices_by_created",
		up: ` ORDER BY created_at, id`, upAfter: ` AND (created_at, id) > (?, ?)`,
		down: ` ORDER BY created_at DESC, id DESC`, downAfter: ` AND (created_at, id) < (?, ?)`, number: true,
	},
	socketxp.SortByLastSeen: {
		column: "last_seen_at", index: "devices_by_seen",
		up: ` ORDER BY last_seen_at, id`, upAfter: ` AND (last_seen_at, id) > (?, ?)`,
		down: ` ORDER BY last_seen_at DESC, id DESC`, downAfter: ` AND (last_seen_at, id) < (?, ?)`, number: true,
	},
}

var orderByName = deviceOrder{
	column: "name", index: "devices_by_search",
	up: ` ORDER BY name, id`, upAfter: ` AND (name, id) > (?, ?)`,
	down: ` ORDER BY name DESC, id DESC`, downAfter: ` AND (name, id) < (?, ?)`,
}

// statement is SQL that is put together from fragments that stand in this file.
// What comes from outside is only ever an argument.
type statement struct {
	sql  strings.Builder
	args []any
}

// add appends a fragment; each ? in it stands for the next of args.
func (s *statement) add(fragment string, args ...any) *statement {
	for _, arg := range args {
		text, rest, _ := strings.Cut(fragment, "?")
		s.args = append(s.args, arg)
		s.sql.WriteString(text + "$" + strconv.Itoa(len(s.args)))
		fragment = rest
	}
	s.sql.WriteString(fragment)
	return s
}

// few is how many devices of a group, or of a version, may be sorted for a page.
const few = 5000

func (db *DB) query(ctx context.Context, s *statement) (*sql.Rows, error) {
	return db.lists.QueryContext(ctx, s.sql.String(), s.args...)
}

func (db *DB) queryRow(ctx context.Context, s *statement) *sql.Row {
	return db.lists.QueryRowContext(ctx, s.sql.String(), s.args...)
}

// Devices implements socketxp.DeviceStore. Devices that were never seen sort as
// the oldest.
//
// A page is made in one of three ways, none of which reads all rows of an account.
// Where an index has just those that are asked for, they are counted and
// listed by it. Few that were found in another way are counted and listed by their
// ids. Of many, the order is walked until there is a page.
func (db *DB) Devices(ctx context.Context, accountID string, query socketxp.DeviceQuery) (page []socketxp.Device, total socketxp.Total, err error) {
	if page, total, err = db.devices(ctx, accountID, query); err != nil {
		return nil, socketxp.Total{}, wrap(ctx, "list devices", err)
	}
	return page, total, nil
}

func (db *DB) devices(ctx context.Context, accountID string, query socketxp.DeviceQuery) (page []socketxp.Device, total socketxp.Total, err error) {
	if err := checkDeviceQuery(query); err != nil {
		return nil, total, err
	}
	q, many := deviceFilter{DeviceQuery: query}, false
	q.online, q.Online = query.Online, nil
	if q.Offline && q.online != nil && q.online.Len() == 0 {
		q.online = nil
	}
	switch {
	case query.IDs != nil && len(query.IDs) <= socketxp.MaxCounted:
		q.only = query.IDs
	case query.IDs != nil:
		q.in = make(map[string]bool, len(query.IDs))
		for _, id := range query.IDs {
			q.in[id] = true
		}
	case q.online != nil && !q.Offline && q.online.Len() <= socketxp.MaxCounted:
		q.only = append([]string{}, q.online.IDs()...) // of none, none
	}
	if q.only == nil && query.Search != "" {
		if q.only, many, err = db.searchTexts(ctx, accountID, query.Search); err != nil {
			return nil, total, err
		}
		if q.only != nil {
			q.Search = ""
		}
	}
	if q.only != nil {
		q.only = slices.DeleteFunc(slices.Clone(q.only), func(id string) bool { return !q.keeps(id) })
		q.in, q.online = nil, nil
	}

	uncounted := socketxp.Total{Devices: socketxp.MaxCounted, OrMore: true}
	if many && !q.narrowed() {
		page, err = db.walkPage(ctx, accountID, q)
		return page, uncounted, err
	}
	if q.only == nil && q.Search != "" && q.looked() { // who is offline, say: a search among few is soon done
		all := q
		all.Search = ""
		if found, err := db.find(ctx, accountID, all, socketxp.MaxCounted+1); err != nil {
			return nil, total, err
		} else if len(found) <= socketxp.MaxCounted {
			q.only, q.in, q.online = found, nil, nil
		}
	}
	if q.only == nil && (q.Search != "" || q.looked() || q.Group != "" && q.Version != "") {
		found, err := db.find(ctx, accountID, q, socketxp.MaxCounted+1)
		if err != nil {
			return nil, total, err
		}
		if len(found) > socketxp.MaxCounted {
			page, err = db.walkPage(ctx, accountID, q)
			return page, uncounted, err
		}
		q = deviceFilter{DeviceQuery: socketxp.DeviceQuery{Sort: query.Sort, Desc: query.Desc, After: query.After, Limit: query.Limit}, only: found}
	}
	if q.total, err = db.countDevices(ctx, accountID, q); err != nil {
		return nil, total, fmt.Errorf("count: %w", err)
	}
	page, err = db.devicePage(ctx, accountID, q)
	return page, socketxp.Total{Devices: q.total}, err
}

func checkDeviceQuery(query socketxp.DeviceQuery) error {
	order, ok := deviceOrders[query.Sort]
	if !ok {
		return socketxp.Errorf(socketxp.CodeInvalid, "devices can't be sorted by %q", query.Sort)
	}
	if query.After != nil && order.number {
		if _, err := strconv.ParseInt(query.After.Value, 10, 64); err != nil {
			return socketxp.Errorf(socketxp.CodeInvalid, "the cursor is not valid")
		}
	}
	_, err := pageSize(query.Limit)
	return err
}

// deviceFilter is a query and what became of its sets of ids: only is asked of the
// database, which finds the few by their ids; in and online may be of all devices there
// are, and are asked of each id that was read.
type deviceFilter struct {
	socketxp.DeviceQuery
	only   []string           // nil: not only these
	in     map[string]bool    // nil: not only these
	online socketxp.DeviceSet // nil: online or not
	total  int                // that match, if they were counted

	anyOrder bool // the sort order does not matter
}

// looked reports whether each id has to be looked at.
func (q *deviceFilter) looked() bool { return q.in != nil || q.online != nil }

func (q *deviceFilter) keeps(id string) bool {
	return (q.in == nil || q.in[id]) && (q.online == nil || q.online.Has(id) != q.Offline)
}

// narrowed reports whether more than a search is asked for.
func (q *deviceFilter) narrowed() bool {
	return q.Group != "" || q.Version != "" || q.Disabled != nil || q.Quarantined != nil || q.looked()
}

// searchTexts returns the ids of all devices that have text, or that there are more
// than socketxp.MaxCounted of them. It returns nil and false if they are not found by an
// index: there is none on PostgreSQL, and SQLite's is one of all accounts, in which a
// small one would wait for what others have.
func (db *DB) searchTexts(ctx context.Context, accountID, text string) (ids []string, many bool, err error) {
	if db.engine.findTexts == "" {
		return nil, false, nil
	}
	if n, err := db.r.CountInGroups(ctx, accountID, ""); err != nil || n <= socketxp.MaxCounted {
		return nil, false, err
	}
	text = fold(text)
	phrase, err := db.searchPhrase(ctx, text)
	if err != nil || phrase == "" {
		return nil, false, err
	}
	found := make(map[string]struct{})
	for _, s := range []*statement{
		new(statement).add(db.engine.findTexts, phrase, accountID, text, socketxp.MaxCounted+1),
		new(statement).add(`SELECT id FROM devices WHERE account_id = ? AND group_name IN (`+
			`SELECT g.name FROM device_groups g WHERE g.account_id = ? AND `+db.engine.position+`(g.name, ?) > 0) LIMIT ?`,
			accountID, accountID, text, socketxp.MaxCounted+1),
	} {
		ids, err := stringsOf(ctx, db.lists, s.sql.String(), s.args...)
		if err != nil {
			return nil, false, fmt.Errorf("search: %w", err)
		}
		for _, id := range ids {
			found[id] = struct{}{}
		}
		if len(found) > socketxp.MaxCounted {
			return nil, true, nil
		}
	}
	return slices.AppendSeq(make([]string, 0, len(found)), maps.Keys(found)), false, nil
}

// searchPhrase returns what the index of texts is asked for, or "" if that would be too
// much. It knows three characters in a row; fewer are asked for by all threes that begin
// with them.
func (db *DB) searchPhrase(ctx context.Context, text string) (string, error) {
	phrases := []string{text}
	if utf8.RuneCountInString(text) < 3 {
		const most = 64 // of so many some is common, and the first rows will do
		s := new(statement).add(db.engine.findTrigrams, text, text+string(utf8.MaxRune), most+1)
		var err error
		if phrases, err = stringsOf(ctx, db.lists, s.sql.String(), s.args...); err != nil {
			return "", fmt.Errorf("search: %w", err)
		}
		if len(phrases) == 0 {
			phrases = []string{text + "\n\n\n"} // is nowhere
		}
		if len(phrases) > most {
			return "", nil
		}
	}
	for i, p := range phrases {
		phrases[i] = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
	}
	return strings.Join(phrases, " OR "), nil
}

// countDevices counts all devices of a query that an index has.
func (db *DB) countDevices(ctx context.Context, accountID string, q deviceFilter) (n int, err error) {
	if q.only == nil && q.Version == "" && q.Disabled == nil && q.Quarantined == nil {
		n, err := db.r.CountInGroups(ctx, accountID, q.Group)
		return int(n), err
	}
	s := new(statement)
	s.add(`SELECT COUNT(*) FROM devices` + db.deviceIndex(q.inAnyOrder()))
	if err := db.selectDevices(s, accountID, q); err != nil {
		return 0, err
	}
	err = db.queryRow(ctx, s).Scan(&n)
	return n, err
}

// inAnyOrder returns the query in the order that is read fastest.
func (q deviceFilter) inAnyOrder() deviceFilter {
	q.Sort, q.Desc, q.After, q.total, q.anyOrder = socketxp.SortByName, false, nil, 0, true
	return q
}

// find returns the ids of n devices of a query, or of all if there are fewer, from
// wherever they are.
func (db *DB) find(ctx context.Context, accountID string, q deviceFilter, n int) (ids []string, err error) {
	q = q.inAnyOrder()
	for _, limit := range []int{2 * n, 0} { // most often the first are enough; all are read in one go, as each row costs
		s := new(statement)
		if s.add(`SELECT ` + db.engine.concat + `(id, ',') FROM devices` + db.deviceIndex(q)); limit > 0 {
			s = new(statement)
			s.add(`SELECT ` + db.engine.concat + `(c.id, ',') FROM (SELECT id FROM devices` + db.deviceIndex(q))
		}
		if err := db.selectDevices(s, accountID, q); err != nil {
			return nil, err
		}
		if limit > 0 {
			s.add(` LIMIT ?) AS c`, limit)
		}
		var list sql.NullString
		if err := db.queryRow(ctx, s).Scan(&list); err != nil {
			return nil, fmt.Errorf("find: %w", err)
		}
		ids = make([]string, 0, n)
		read := 0
		for id := range splitIDs(list) {
			read++
			if q.keeps(id) {
				ids = append(ids, id)
			}
			if len(ids) == n {
				return ids, nil
			}
		}
		if read < limit {
			break
		}
	}
	return ids, nil
}

// splitIDs are the ids of a concatenation; of none it is NULL.
func splitIDs(list sql.NullString) iter.Seq[string] {
	if !list.Valid {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(list.String, ",")
}

// walk returns the ids of the first n devices of a query, in its order and from its
// cursor on.
func (db *DB) walk(ctx context.Context, accountID string, q deviceFilter, n int) (ids []string, err error) {
	ids = make([]string, 0, n)
	order, last := deviceOrders[q.Sort], "MAX"
	if q.Desc {
		last = "MIN"
	}
	count := n
	if q.looked() {
		count = 2 * n
	}
	for ; ; count = min(4*count, 16384) {
		// A row for each device would take twice as long as all ids in one text.
		s := new(statement)
		s.add(`SELECT ` + db.engine.concat + `(c.id, ','), ` + last + `(c.at) FROM (SELECT id, ` + order.column + ` AS at FROM devices` + db.deviceIndex(q))
		if err := db.selectDevices(s, accountID, q); err != nil {
			return nil, err
		}
		orderDevices(s, q.DeviceQuery)
		s.add(` LIMIT ?) AS c`, count)
		var list, at sql.NullString
		if err := db.queryRow(ctx, s).Scan(&list, &at); err != nil {
			return nil, fmt.Errorf("walk: %w", err)
		}
		read := 0
		var id string
		for id = range splitIDs(list) {
			read++
			if q.keeps(id) {
				ids = append(ids, id)
			}
			if len(ids) == n {
				return ids, nil
			}
		}
		if read < count {
			return ids, nil
		}
		q.After = &socketxp.DeviceCursor{Value: at.String, ID: id}
	}
}

// walkPage lists a page of a query that many devices match.
func (db *DB) walkPage(ctx context.Context, accountID string, q deviceFilter) (page []socketxp.Device, err error) {
	for range 3 { // a device that leaves in between would make a full page look like the last one
		ids, err := db.walk(ctx, accountID, q, q.Limit)
		if err != nil {
			return nil, err
		}
		walked := q
		walked.only, walked.After = ids, nil
		if page, err = db.devicePage(ctx, accountID, walked); err != nil || len(page) == len(ids) {
			return page, err
		}
	}
	return page, err
}

// deviceIndex tells SQLite, which knows nothing of how many rows it has of what, the
// index for a query.
func (db *DB) deviceIndex(q deviceFilter) string {
	byName := q.Sort == "" || q.Sort == socketxp.SortByName
	index := deviceOrders[q.Sort].index
	switch {
	case db.engine.indexedBy == "":
		return ""
	case q.only != nil:
		index = "sqlite_autoindex_devices_1" // the primary key's
	case q.Quarantined != nil && *q.Quarantined:
		index = "devices_quarantined"
	case q.Disabled != nil && *q.Disabled:
		index = "devices_disabled"
	case q.anyOrder && q.Search == "" && q.Group == "" && q.Version == "":
		index = "devices_by_created"
		if q.Disabled != nil && q.Quarantined != nil { // neither, by now
			index = "devices_enabled"
		}
	case q.Version != "" && (byName || 0 < q.total && q.total <= few):
		index = "devices_by_version"
	case q.Group != "" && (byName || 0 < q.total && q.total <= few):
		index = "devices_of_group"
	}
	return db.engine.indexedBy + index
}

func (db *DB) selectDevices(s *statement, accountID string, q deviceFilter) error {
	s.add(` WHERE account_id = ?`, accountID)
	if q.Group != "" {
		s.add(` AND group_name = ?`, q.Group)
	}
	if q.Version != "" {
		s.add(` AND version = ?`, q.Version)
	}
	if q.Disabled != nil && *q.Disabled {
		s.add(` AND disabled_at <> 0`)
	} else if q.Disabled != nil {
		s.add(` AND disabled_at = 0`)
	}
	if q.Quarantined != nil && *q.Quarantined {
		s.add(` AND quarantined_at <> 0`)
	} else if q.Quarantined != nil {
		s.add(` AND quarantined_at = 0`)
	}
	if q.only != nil {
		ids, err := formatList(q.only)
		if err != nil {
			return err
		}
		s.add(` AND id `+db.engine.inJSON, ids)
	}
	if q.Search != "" {
		// The expression is that of the index devices_by_search, to the letter.
		s.add(` AND `+db.engine.position+"(name || '\n' || display_name_folded || '\n' || group_name || '\n' || hostname_folded || '\n' || id, ?) > 0", fold(q.Search))
	}
	return nil
}

// orderDevices adds where a page of a checked query begins, and its order.
func orderDevices(s *statement, query socketxp.DeviceQuery) {
	order := deviceOrders[query.Sort]
	by, after := order.up, order.upAfter
	if query.Desc {
		by, after = order.down, order.downAfter
	}
	if query.After != nil {
		var value any = query.After.Value
		if order.number {
			value, _ = strconv.ParseInt(query.After.Value, 10, 64) // checked
		}
		s.add(after, value, query.After.ID)
	}
	s.add(by)
}

// devicePage lists a page of a query whose devices an index has.
func (db *DB) devicePage(ctx context.Context, accountID string, q deviceFilter) (page []socketxp.Device, err error) {
	s := new(statement)
	s.add(`SELECT ` + deviceColumns + ` FROM devices` + db.deviceIndex(q))
	if err := db.selectDevices(s, accountID, q); err != nil {
		return nil, err
	}
	orderDevices(s, q.DeviceQuery)
	s.add(` LIMIT ?`, q.Limit)
	rows, err := db.query(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var ids []string
	for rows.Next() {
		row, err := scanDevice(rows)
		if err != nil {
			return nil, err
		}
		d, err := device(row)
		if err != nil {
			return nil, err
		}
		page, ids = append(page, d), append(ids, d.ID)
	}
	if err := rows.Err(); err != nil || len(page) == 0 {
		return nil, err
	}
	return page, db.addTunnels(ctx, page, ids)
}

// addTunnels sets the tunnels of a page of devices of one account.
func (db *DB) addTunnels(ctx context.Context, page []socketxp.Device, ids []string) (err error) {
	list, err := formatList(ids)
	if err != nil {
		return err
	}
	var s statement
	s.add(`SELECT device_id, destination, ssh FROM tunnels WHERE account_id = ?`, page[0].AccountID)
	s.add(` AND device_id `+db.engine.inJSON+` ORDER BY device_id, destination`, list)
	rows, err := db.query(ctx, &s)
	if err != nil {
		return fmt.Errorf("tunnels: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	at := make(map[string]*socketxp.Device, len(page))
	for i := range page {
		at[page[i].ID] = &page[i]
	}
	for rows.Next() {
		var id, destination string
		var ssh bool
		if err := rows.Scan(&id, &destination, &ssh); err != nil {
			return err
		}
		t, err := tunnel(destination, ssh)
		if err != nil {
			return err
		}
		at[id].Tunnels = append(at[id].Tunnels, t)
	}
	return rows.Err()
}
