import { MultiSelect, Select } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import { useQueries, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import type { Device } from "../api/client";
import { deviceQuery, devicesQuery } from "../api/queries";
import { t } from "../strings";

interface Item {
	value: string;
	label: string;
}

const itemOf = (d: Device): Item => ({
	value: d.id,
	label: d.display_name && d.display_name !== d.name ? `${d.display_name} (${d.name})` : d.name,
});

/** The devices that a person may mean by what they typed; the gateway searches. */
function useFound(typed: string) {
	const [search] = useDebouncedValue(typed.trim(), 150);
	return useQuery(devicesQuery({ limit: 20, ...(search ? { search } : {}) })).data?.items.map(itemOf) ?? [];
}

/** The last part of an id: enough to tell rows apart. */
export const shortId = (id: string) => `…${id.slice(-8)}`;

/** A device to filter by, or one of the `extra` choices before them. */
export function PickDevice({
	value,
	onChange,
	label,
	placeholder,
	extra = [],
}: {
	value: string | undefined;
	onChange: (id: string | undefined) => void;
	label: string;
	placeholder: string;
	extra?: readonly Item[];
}) {
	const [typed, setTyped] = useState("");
	const known = extra.find((e) => e.value === value);
	const one = useQuery({ ...deviceQuery(value ?? ""), enabled: value !== undefined && !known, retry: false });
	const chosen = known ?? (value ? (one.data ? itemOf(one.data) : { value, label: shortId(value) }) : undefined);
	const found = useFound(typed === chosen?.label ? "" : typed);
	return (
		<Select
			aria-label={label}
			placeholder={placeholder}
			searchable
			clearable
			clearButtonProps={{ "aria-label": `${t.common.clear}: ${label}` }}
			value={value ?? null}
			onChange={(v) => onChange(v ?? undefined)}
			searchValue={typed}
			onSearchChange={setTyped}
			data={distinct([...extra, ...(chosen ? [chosen] : []), ...found])}
			filter={({ options }) => options}
			nothingFoundMessage={t.common.nothingFound}
			maxDropdownHeight={320}
			w={220}
		/>
	);
}

/** Some devices, by their ids. */
export function PickDevices({
	value,
	onChange,
	label,
	description,
	placeholder,
}: {
	value: string[];
	onChange: (ids: string[]) => void;
	label: string;
	description?: string;
	placeholder: string;
}) {
	const [typed, setTyped] = useState("");
	const chosen = useQueries({ queries: value.map((id) => ({ ...deviceQuery(id), retry: false })) }).map((q, i) =>
		q.data ? itemOf(q.data) : { value: value[i] ?? "", label: shortId(value[i] ?? "") },
	);
	const found = useFound(typed);
	return (
		<MultiSelect
			label={label}
			description={description}
			placeholder={value.length === 0 ? placeholder : ""}
			searchable
			value={value}
			onChange={onChange}
			searchValue={typed}
			onSearchChange={setTyped}
			data={distinct([...chosen, ...found])}
			filter={({ options }) => options}
			nothingFoundMessage={t.common.nothingFound}
			hidePickedOptions
			maxValues={200}
		/>
	);
}

const distinct = (items: readonly Item[]): Item[] => [...new Map(items.map((i) => [i.value, i])).values()];
