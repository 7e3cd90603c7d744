import { ActionIcon, Button, Menu, Modal, Group as Row, Stack, Text, TextInput, Title, Tooltip } from "@mantine/core";
import { IconDotsVertical, IconEdit, IconPlus, IconServer2, IconTrash } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { type FormEvent, type ReactNode, useMemo, useState } from "react";
import { ApiError, api, ask, type Group } from "../api/client";
import { groupsQuery } from "../api/queries";
import { t } from "../strings";
import { Confirm } from "../ui/dialogs";
import { Page, Panel } from "../ui/page";
import { Problem } from "../ui/problem";
import { useRight } from "../ui/rights";
import { SearchBox } from "../ui/searchBox";
import { type Column, Pager, Table } from "../ui/table";
import { Time } from "../ui/time";
import { done } from "../ui/toast";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import { devicesChanged } from "./deviceActs";
import { isLabel } from "./deviceParts";
import deviceClasses from "./devices.module.css";
import classes from "./groups.module.css";

const sorts = ["name", "-name", "devices", "-devices", "created_at", "-created_at"] as const;

function sorted(groups: readonly Group[], sort: (typeof sorts)[number]): Group[] {
	const by = sort.replace("-", "") as "name" | "devices" | "created_at";
	const order = (a: Group, b: Group) => {
		const [x, y] = [a[by], b[by]];
		return (x < y ? -1 : x > y ? 1 : a.name < b.name ? -1 : 1) * (sort.startsWith("-") ? -1 : 1);
	};
	return [...groups].sort(order);
}

/** The gateway answers all groups whole: searching, sorting and paging are done here. */
export function GroupsPage() {
	const [url, setUrl] = useUrlState();
	const navigate = useNavigate();
	const mayWrite = useRight("devices:write");
	const groups = useQuery(groupsQuery);
	const search = textOf(url.search, 63) ?? "";
	const sort = oneOf(url.sort, sorts) ?? "name";
	const limit = sizeOf(url.size);
	const from = Math.max(0, Math.floor(Number(textOf(url.cursor) ?? 0) || 0));
	const found = useMemo(
		() => groups.data && sorted(groups.data, sort).filter((g) => g.name.includes(search.toLowerCase())),
		[groups.data, sort, search],
	);
	const change = (patch: Record<string, unknown>, replace = false) => setUrl({ ...patch, cursor: undefined }, replace);
	const close = () => setUrl({ create: undefined, rename: undefined });
	const [deleting, setDeleting] = useState<{ group: string; opened: boolean }>({ group: "", opened: false });
	const renaming = groups.data?.find((g) => g.name === url.rename);
	const columns: Column<Group>[] = [
		{
			id: "name",
			title: t.groups.columns.name,
			sort: "name",
			cell: (g) => (
				<Link to="/devices" search={{ group: g.name }} className={classes.name ?? ""}>
					{g.name}
				</Link>
			),
		},
		{
			id: "devices",
			title: t.groups.columns.devices,
			sort: "devices",
			cell: (g) => <span className="numbers">{t.common.number(g.devices)}</span>,
		},
		{
			id: "created",
			title: t.groups.columns.created,
			sort: "created_at",
			from: "md",
			cell: (g) => <Time at={g.created_at} />,
		},
		{
			id: "actions",
			title: t.groups.columns.actions,
			quietTitle: true,
			align: "right",
			width: "1px",
			sticky: true,
			cell: (g) => (
				<Menu>
					<Menu.Target>
						<ActionIcon variant="subtle" color="gray" size={30} aria-label={t.groups.menu(g.name)}>
							<IconDotsVertical size={18} />
						</ActionIcon>
					</Menu.Target>
					<Menu.Dropdown>
						<Menu.Item
							leftSection={<IconServer2 size={16} />}
							onClick={() => navigate({ to: "/devices", search: { group: g.name } })}
						>
							{t.groups.showDevices(g.name)}
						</Menu.Item>
						{mayWrite && (
							<>
								<Menu.Item leftSection={<IconEdit size={16} />} onClick={() => setUrl({ rename: g.name })}>
									{t.groups.rename}
								</Menu.Item>
								<Tooltip label={t.groups.notEmpty} disabled={g.devices === 0}>
									<Menu.Item
										color="red"
										leftSection={<IconTrash size={16} />}
										disabled={g.devices > 0}
										onClick={() => setDeleting({ group: g.name, opened: true })}
									>
										{t.groups.delete}
									</Menu.Item>
								</Tooltip>
							</>
						)}
					</Menu.Dropdown>
				</Menu>
			),
		},
	];
	const create = mayWrite && (
		<Button leftSection={<IconPlus size={16} />} onClick={() => setUrl({ create: 1 })}>
			{t.groups.create}
		</Button>
	);
	return (
		<Page title={t.groups.title} lead={t.groups.lead} actions={create}>
			<search className={classes.toolbar}>
				<SearchBox
					label={t.groups.search}
					value={search}
					maxLength={63}
					onSearch={(text) => change({ search: text || undefined }, true)}
				/>
			</search>
			<Panel flush>
				<Table
					label={t.groups.title}
					columns={columns}
					rows={found?.slice(from, from + limit)}
					id={(g) => g.name}
					error={groups.error}
					onRetry={() => void groups.refetch()}
					sort={sort}
					onSort={(s) => change({ sort: s === "name" ? undefined : s })}
					onRowClick={(g) => void navigate({ to: "/devices", search: { group: g.name } })}
					empty={
						<div className={deviceClasses.none}>
							<Title order={2}>{search ? t.groups.noMatch.title : t.groups.none.title}</Title>
							<p>{search ? t.groups.noMatch.text : t.groups.none.text}</p>
							{!search && create}
						</div>
					}
				/>
				<Pager
					summary={found && t.common.rows.total(found.length, false, t.groups.one)}
					cursor={from > 0 ? String(from) : undefined}
					nextCursor={found && found.length > from + limit ? String(from + limit) : undefined}
					onGo={(c) => setUrl({ cursor: c })}
					size={limit}
					onSize={(n) => change({ size: n })}
				/>
			</Panel>
			<NameDialog
				opened={url.create !== undefined && mayWrite}
				title={t.groups.creating.title}
				button={t.groups.creating.button}
				name=""
				onClose={close}
				act={async (name) => {
					await ask(api.POST("/api/v1/groups", { body: { name } }));
					done(t.groups.creating.done(name));
				}}
			>
				<Text size="sm">{t.groups.creating.text}</Text>
			</NameDialog>
			<NameDialog
				opened={renaming !== undefined && mayWrite}
				title={t.groups.renaming.title(renaming?.name ?? "")}
				button={t.groups.renaming.button}
				name={renaming?.name ?? ""}
				onClose={close}
				act={async (name) => {
					if (!renaming) return;
					await ask(api.PATCH("/api/v1/groups/{name}", { params: { path: { name: renaming.name } }, body: { name } }));
					done(t.groups.renaming.done(renaming.name, name));
				}}
			>
				<Stack gap="xs">
					<Text size="sm">{t.groups.renaming.devices(renaming?.devices ?? 0)}</Text>
					<Text size="sm">{t.groups.renaming.tokens}</Text>
				</Stack>
			</NameDialog>
			<Confirm
				title={t.groups.deleting.title(deleting.group)}
				button={t.groups.deleting.button}
				opened={deleting.opened}
				onClose={() => setDeleting((d) => ({ ...d, opened: false }))}
				act={async () => {
					await ask(api.DELETE("/api/v1/groups/{name}", { params: { path: { name: deleting.group } } }));
					done(t.groups.deleting.done(deleting.group));
					devicesChanged();
				}}
			>
				<Text size="sm">{t.groups.deleting.text}</Text>
			</Confirm>
		</Page>
	);
}

interface NameDialogProps {
	title: string;
	button: string;
	/** What it is called now; "" for a new one. */
	name: string;
	onClose: () => void;
	act: (name: string) => Promise<void>;
	children: ReactNode;
}

/** Asks for the name of a group. */
function NameDialog({ opened, ...p }: NameDialogProps & { opened: boolean }) {
	return (
		<Modal
			opened={opened}
			onClose={p.onClose}
			title={<Text fw={600}>{p.title}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
		>
			<NameForm key={p.name} {...p} />
		</Modal>
	);
}

function NameForm({ button, name: before, onClose, act, children }: NameDialogProps) {
	const [name, setName] = useState(before);
	const [wrong, setWrong] = useState<string | undefined>();
	const [error, setError] = useState<unknown>();
	const [busy, setBusy] = useState(false);
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		setError(undefined);
		setWrong(undefined);
		if (!isLabel(name.trim())) {
			setWrong(t.devices.editor.labelRule);
			return;
		}
		setBusy(true);
		try {
			await act(name.trim());
			devicesChanged();
			onClose();
		} catch (e) {
			if (e instanceof ApiError && e.code === "conflict") setWrong(t.groups.taken);
			else setError(e);
			setBusy(false);
		}
	};
	return (
		<form onSubmit={submit} noValidate>
			<Stack gap="md">
				<div>{children}</div>
				<TextInput
					label={t.groups.name}
					description={t.groups.nameHelp}
					value={name}
					onChange={(e) => setName(e.currentTarget.value)}
					error={wrong}
					maxLength={63}
					required
					withAsterisk={false}
					spellCheck={false}
					autoComplete="off"
					data-autofocus
				/>
				<Problem error={error} />
				<Row justify="flex-end" gap="xs">
					<Button variant="default" onClick={onClose}>
						{t.common.cancel}
					</Button>
					<Button type="submit" loading={busy} disabled={name.trim() === before}>
						{button}
					</Button>
				</Row>
			</Stack>
		</form>
	);
}
