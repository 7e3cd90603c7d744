package gateway

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"socketxp"
)

// A cursor is where a page ended, opaque to clients: the list it is of, and the
// place of the last item in its order. It gives no right to anything: what it
// leads to is asked for with the caller's account as all else is.

// maxCursor is longer than any cursor of ours: the longest has a device name and a
// destination, escaped.
const maxCursor = 2048

var errCursor = socketxp.Errorf(socketxp.CodeInvalid, "the cursor is not valid").WithHint("send next_cursor of the page before, with the same filters")

func encodeCursor(list string, place ...string) string {
	b, err := json.Marshal(append([]string{list}, place...))
	if err != nil {
		return "" // strings are always encoded
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor returns the n parts of a place in list, or nil for no cursor.
func decodeCursor(cursor, list string, n int) ([]string, error) {
	if cursor == "" {
		return nil, nil
	}
	if len(cursor) > maxCursor {
		return nil, errCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || !utf8.Valid(b) {
		return nil, errCursor
	}
	var parts []string
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) != n+1 || parts[0] != list {
		return nil, errCursor
	}
	for _, p := range parts {
		if strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
			return nil, errCursor
		}
	}
	return parts[1:], nil
}

// decodeIDCursor returns the id that a cursor of list holds, or "" for no cursor.
func decodeIDCursor(cursor, list string) (string, error) {
	parts, err := decodeCursor(cursor, list, 1)
	if err != nil || parts == nil {
		return "", err
	}
	if !socketxp.ValidID(parts[0]) {
		return "", errCursor
	}
	return parts[0], nil
}

// decodeDeviceCursor returns the place that a cursor holds in a list sorted as
// named, or nil for no cursor.
func decodeDeviceCursor(cursor, sort string) (*socketxp.DeviceCursor, error) {
	parts, err := decodeCursor(cursor, "devices", 3)
	if err != nil || parts == nil {
		return nil, err
	}
	by := socketxp.DeviceSort(strings.TrimPrefix(sort, "-"))
	if parts[0] != sort || !socketxp.ValidID(parts[2]) {
		return nil, errCursor
	}
	if by == socketxp.SortByCreated || by == socketxp.SortByLastSeen {
		if _, err := strconv.ParseInt(parts[1], 10, 64); err != nil {
			return nil, errCursor
		}
	}
	return &socketxp.DeviceCursor{Value: parts[1], ID: parts[2]}, nil
}

func encodeDeviceCursor(sort string, d socketxp.Device) string {
	micros := func(unix int64, zero bool) string {
		if zero {
			unix = 0
		}
		return strconv.FormatInt(unix, 10)
	}
	value := d.Name
	switch socketxp.DeviceSort(strings.TrimPrefix(sort, "-")) {
	case socketxp.SortByGroup:
		value = d.Group
	case socketxp.SortByCreated:
		value = micros(d.CreatedAt.UnixMicro(), d.CreatedAt.IsZero())
	case socketxp.SortByLastSeen:
		value = micros(d.LastSeenAt.UnixMicro(), d.LastSeenAt.IsZero())
	case socketxp.SortByName:
	}
	return encodeCursor("devices", sort, value, d.ID)
}

// cut returns at most limit of items, of which one more was asked for, and the
// cursor after the last one if there are more.
func cut[T any](items []T, limit int, cursor func(last T) string) (page []T, next string) {
	if len(items) <= limit {
		return items, ""
	}
	return slices.Clip(items[:limit]), cursor(items[limit-1])
}

// mapped applies one to each item; the result is never nil, so that JSON has [].
func mapped[A, B any](items []A, one func(A) B) []B {
	out := make([]B, len(items))
	for i, item := range items {
		out[i] = one(item)
	}
	return out
}
