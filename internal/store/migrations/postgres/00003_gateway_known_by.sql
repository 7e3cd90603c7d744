-- +goose Up
-- What each device verifies the gateway by: '' if it never said.
ALTER TABLE devices ADD COLUMN gateway_known_by TEXT NOT NULL DEFAULT '';
