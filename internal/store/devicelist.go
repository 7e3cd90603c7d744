package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
	up, upAfter, down, downAfter string
	number                       bool // the column is one
}

var deviceOrders = map[socketxp.DeviceSort]deviceOrder{
	"": orderByName, socketxp.SortByName: orderByName,
	socketxp.SortByGroup: {
		up: ` ORDER BY group_name, id`, upAfter: ` AND (group_name, id) > (?, ?)`,
		down: ` ORDER BY group_name DESC, id DESC`, downAfter: ` AND (group_name, id) < (?, ?)`,
	},
	socketxp.SortByCreated: {
		up: ` ORDER BY created_at, id`, upAfter: ` AND (created_at, id) > (?, ?)`,
		down: ` ORDER BY created_at DESC, id DESC`, downAfter: ` AND (created_at, id) < (?, ?)`, number: true,
	},
	socketxp.SortByLastSeen: {
		up: ` ORDER BY last_seen_at, id`, upAfter: ` AND (last_seen_at, id) > (?, ?)`,
		down: ` ORDER BY last_seen_at DESC, id DESC`, downAfter: ` AND (last_seen_at, id) < (?, ?)`, number: true,
	},
}

var orderByName = deviceOrder{
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
func (s *statement) add(fragment string, args ...any) {
	for _, arg := range args {
		text, rest, _ := strings.Cut(fragment, "?")
		s.args = append(s.args, arg)
		s.sql.WriteString(text + "$" + strconv.Itoa(len(s.args)))
		fragment = rest
	}
	s.sql.WriteString(fragment)
}

// Devices implements socketxp.DeviceStore. Devices that were never seen sort as
// the oldest.
func (db *DB) Devices(ctx context.Context, accountID string, query socketxp.DeviceQuery) (page []socketxp.Device, total int, err error) {
	if query.Search != "" {
		found, all, err := db.searchDevices(ctx, accountID, query)
		if err != nil {
			return nil, 0, wrap(ctx, "search devices", err)
		}
		if all <= maxFound {
			query.Search, query.IDs = "", found
		}
		total = all
	} else if total, err = db.countDevices(ctx, accountID, query, nil); err != nil {
		return nil, 0, wrap(ctx, "count devices", err)
	}
	list, err := db.listStatement(accountID, query)
	if err != nil {
		return nil, 0, err
	}
	if page, err = db.devicePage(ctx, list); err != nil {
		return nil, 0, wrap(ctx, "list devices", err)
	}
	return page, total, nil
}

// maxFound is how many devices a search may find for the page to be taken from their
// ids. Of 100,000 a search that finds more finds one in a hundred, so that any order
// has a page of them soon.
const maxFound = 1000

// searchDevices looks through the texts of all devices once. It returns how many
// match and, if they are not more than maxFound, which.
func (db *DB) searchDevices(ctx context.Context, accountID string, query socketxp.DeviceQuery) (found []string, total int, err error) {
	s, err := db.searchStatement(accountID, query)
	if err != nil {
		return nil, 0, err
	}
	rows, err := db.reader.QueryContext(ctx, s.sql.String(), s.args...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	found = make([]string, 0)
	var last [2]string
	for rows.Next() {
		if err := rows.Scan(&last[0], &last[1]); err != nil {
			return nil, 0, err
		}
		found = append(found, last[1])
	}
	if err := rows.Err(); err != nil || len(found) <= maxFound {
		return found, len(found), err
	}
	more, err := db.countDevices(ctx, accountID, query, &last)
	return nil, len(found) + more, err
}

// countDevices counts the devices of a query, or those that come after one by name
// and id.
func (db *DB) countDevices(ctx context.Context, accountID string, query socketxp.DeviceQuery, after *[2]string) (n int, err error) {
	s, err := db.countStatement(accountID, query, after)
	if err != nil {
		return 0, err
	}
	err = db.reader.QueryRowContext(ctx, s.sql.String(), s.args...).Scan(&n)
	return n, err
}

// deviceIndex tells SQLite, which knows nothing of how many rows it has of what, the
// index for a query that it would answer by reading every row of the account.
func (db *DB) deviceIndex(query socketxp.DeviceQuery) string {
	byName := query.Sort == "" || query.Sort == socketxp.SortByName
	index := ""
	switch {
	case db.engine.indexedBy == "":
		return ""
	case query.IDs != nil:
		index = "sqlite_autoindex_devices_1" // the primary key's
	case query.Quarantined != nil && *query.Quarantined:
		index = "devices_quarantined"
	case query.Disabled != nil && *query.Disabled:
		index = "devices_disabled"
	case query.Group != "" || query.Version != "" || !byName:
		return ""
	case query.Search != "" || query.NotIDs != nil || query.Disabled != nil || query.Quarantined != nil:
		index = "devices_by_search"
	default:
		return ""
	}
	return db.engine.indexedBy + index
}

func (db *DB) listStatement(accountID string, query socketxp.DeviceQuery) (*statement, error) {
	s := new(statement)
	s.add(`SELECT ` + deviceColumns + ` FROM devices` + db.deviceIndex(query))
	if err := db.selectDevices(s, accountID, query); err != nil {
		return nil, err
	}
	return s, orderDevices(s, query)
}

func (db *DB) searchStatement(accountID string, query socketxp.DeviceQuery) (*statement, error) {
	query.Sort = socketxp.SortByName
	s := new(statement)
	s.add(`SELECT name, id FROM devices` + db.deviceIndex(query))
	if err := db.selectDevices(s, accountID, query); err != nil {
		return nil, err
	}
	s.add(` ORDER BY name, id LIMIT ?`, maxFound+1)
	return s, nil
}

func (db *DB) countStatement(accountID string, query socketxp.DeviceQuery, after *[2]string) (*statement, error) {
	query.Sort = socketxp.SortByName // any is the same to a count
	s := new(statement)
	s.add(`SELECT COUNT(*) FROM devices` + db.deviceIndex(query))
	if err := db.selectDevices(s, accountID, query); err != nil {
		return nil, err
	}
	if after != nil {
		s.add(orderByName.upAfter, after[0], after[1])
	}
	return s, nil
}

func (db *DB) selectDevices(s *statement, accountID string, query socketxp.DeviceQuery) error {
	s.add(` WHERE account_id = ?`, accountID)
	if query.Group != "" {
		s.add(` AND group_name = ?`, query.Group)
	}
	if query.Version != "" {
		s.add(` AND version = ?`, query.Version)
	}
	if query.Disabled != nil && *query.Disabled {
		s.add(` AND disabled_at <> 0`)
	} else if query.Disabled != nil {
		s.add(` AND disabled_at = 0`)
	}
	if query.Quarantined != nil && *query.Quarantined {
		s.add(` AND quarantined_at <> 0`)
	} else if query.Quarantined != nil {
		s.add(` AND quarantined_at = 0`)
	}
	for _, l := range []struct {
		ids  []string
		test string
	}{{query.IDs, db.engine.inJSON}, {query.NotIDs, db.engine.notInJSON}} {
		if l.ids == nil {
			continue
		}
		ids, err := formatList(l.ids)
		if err != nil {
			return err
		}
		s.add(` AND id `+l.test, ids)
	}
	if query.Search != "" {
		// The expression is that of the index devices_by_search, to the letter.
		s.add(` AND `+db.engine.position+"(name || '\n' || display_name_folded || '\n' || group_name || '\n' || hostname_folded || '\n' || id, ?) > 0", fold(query.Search))
	}
	return nil
}

func orderDevices(s *statement, query socketxp.DeviceQuery) error {
	order, ok := deviceOrders[query.Sort]
	if !ok {
		return socketxp.Errorf(socketxp.CodeInvalid, "devices can't be sorted by %q", query.Sort)
	}
	limit, err := pageSize(query.Limit)
	if err != nil {
		return err
	}
	by, after := order.up, order.upAfter
	if query.Desc {
		by, after = order.down, order.downAfter
	}
	if query.After != nil {
		var value any = query.After.Value
		if order.number {
			if value, err = strconv.ParseInt(query.After.Value, 10, 64); err != nil {
				return socketxp.Errorf(socketxp.CodeInvalid, "the cursor is not valid")
			}
		}
		s.add(after, value, query.After.ID)
	}
	s.add(by)
	s.add(` LIMIT ?`, limit)
	return nil
}

func (db *DB) devicePage(ctx context.Context, list *statement) (page []socketxp.Device, err error) {
	rows, err := db.reader.QueryContext(ctx, list.sql.String(), list.args...)
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
	rows, err := db.reader.QueryContext(ctx, s.sql.String(), s.args...)
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
