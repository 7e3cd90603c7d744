import { Progress as Bar, Button, Group, List, Modal, Stack, Text, TextInput } from "@mantine/core";
import { IconCircleCheck, IconFolderSymlink, IconPlayerPause, IconPlayerPlay, IconTrash } from "@tabler/icons-react";
import { type FormEvent, useRef, useState } from "react";
import type { Device } from "../api/client";
import { t } from "../strings";
import { inBulk, type Progress } from "../ui/bulk";
import { Problem } from "../ui/problem";
import { devicesChanged, disable, enable, remove, update } from "./deviceActs";
import { calling, GroupInput, isLabel } from "./deviceParts";
import classes from "./devices.module.css";

export type BulkAct = "move" | "disable" | "enable" | "delete";

/** What can be done with the devices that are selected; stays in sight while the table scrolls. */
export function BulkBar({
	count,
	onAct,
	onClear,
}: {
	count: number;
	onAct: (act: BulkAct) => void;
	onClear: () => void;
}) {
	const words = t.devices.bulk;
	return (
		<section className={classes.bulk} aria-label={words.label}>
			<span className={`${classes.bulkCount} numbers`} role="status">
				{t.common.rows.selected(count)}
			</span>
			<Button size="xs" variant="default" leftSection={<IconFolderSymlink size={15} />} onClick={() => onAct("move")}>
				{words.move}
			</Button>
			<Button size="xs" variant="default" leftSection={<IconPlayerPause size={15} />} onClick={() => onAct("disable")}>
				{words.disable}
			</Button>
			<Button size="xs" variant="default" leftSection={<IconPlayerPlay size={15} />} onClick={() => onAct("enable")}>
				{words.enable}
			</Button>
			<Button size="xs" variant="default" c="red" leftSection={<IconTrash size={15} />} onClick={() => onAct("delete")}>
				{words.delete}
			</Button>
			<Button size="xs" variant="subtle" color="gray" onClick={onClear}>
				{t.common.rows.clear}
			</Button>
		</section>
	);
}

/** Asks, does it with all devices, and says what failed. */
export function BulkDialog({
	act,
	devices,
	onClose,
	onDone,
}: {
	act: BulkAct | undefined;
	devices: readonly Device[];
	onClose: () => void;
	/** Gets those that it was done with. */
	onDone: (ids: readonly string[]) => void;
}) {
	const [busy, setBusy] = useState(false);
	return (
		<Modal
			opened={act !== undefined}
			onClose={() => !busy && onClose()}
			withCloseButton={!busy}
			closeOnEscape={!busy}
			closeOnClickOutside={!busy}
			title={<Text fw={600}>{act && t.devices.bulk.titles[act](devices.length)}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
		>
			{act && <BulkForm act={act} devices={devices} onClose={onClose} onDone={onDone} onBusy={setBusy} />}
		</Modal>
	);
}

function BulkForm({
	act,
	devices,
	onClose,
	onDone,
	onBusy,
}: {
	act: BulkAct;
	devices: readonly Device[];
	onClose: () => void;
	onDone: (ids: readonly string[]) => void;
	onBusy: (busy: boolean) => void;
}) {
	const words = t.devices.bulk;
	const [todo, setTodo] = useState(devices);
	const [group, setGroup] = useState("");
	const [wrong, setWrong] = useState<string | undefined>();
	const [typed, setTyped] = useState("");
	const [progress, setProgress] = useState<Progress<Device> | undefined>();
	const [over, setOver] = useState(false);
	const stop = useRef(new AbortController());
	const [stopping, setStopping] = useState(false);

	const run = async (items: readonly Device[]) => {
		const one = {
			move: (d: Device) => update(d.id, { group: group.trim() }),
			disable: (d: Device) => disable(d.id),
			enable: (d: Device) => enable(d.id),
			delete: (d: Device) => remove(d.id),
		}[act];
		stop.current = new AbortController();
		const finished: string[] = [];
		setTodo(items);
		setStopping(false);
		setOver(false);
		setProgress({ done: 0, failures: [] });
		onBusy(true);
		const result = await inBulk(
			items,
			async (d) => {
				await one(d);
				finished.push(d.id);
			},
			stop.current.signal,
			setProgress,
		);
		setProgress(result);
		setOver(true);
		onBusy(false);
		onDone(finished);
		devicesChanged();
	};

	const submit = (e: FormEvent) => {
		e.preventDefault();
		if (act === "move" && !isLabel(group.trim())) {
			setWrong(t.devices.editor.labelRule);
			return;
		}
		void run(todo);
	};

	if (progress) {
		const gone = progress.done + progress.failures.length;
		const left = todo.length - gone;
		return (
			<Stack gap="md">
				<Bar.Root size="lg">
					<Bar.Section value={(progress.done / todo.length) * 100} aria-label={words.titles[act](todo.length)} />
					<Bar.Section value={(progress.failures.length / todo.length) * 100} color="red" aria-hidden />
				</Bar.Root>
				<Text size="sm" role="status" className="numbers">
					{over
						? left > 0
							? words.summary.stopped(progress.done, left)
							: words.summary.done(progress.done)
						: words.progress(gone, todo.length)}
				</Text>
				{over && progress.failures.length > 0 && (
					<Problem
						error={new Error(words.summary.failed(progress.failures.length))}
						onRetry={() => void run(progress.failures.map((f) => f.item))}
						retry={words.again}
					>
						<List size="sm" spacing={2}>
							{progress.failures.slice(0, 20).map((f) => (
								<List.Item key={f.item.id}>
									{calling(f.item)}: {f.error instanceof Error ? f.error.message : String(f.error)}
								</List.Item>
							))}
							{progress.failures.length > 20 && (
								<List.Item>{words.summary.andMore(progress.failures.length - 20)}</List.Item>
							)}
						</List>
					</Problem>
				)}
				<Group justify="flex-end" gap="xs">
					{over ? (
						<Button leftSection={<IconCircleCheck size={16} />} onClick={onClose} data-autofocus>
							{t.common.close}
						</Button>
					) : (
						<Button
							variant="default"
							disabled={stopping}
							onClick={() => {
								setStopping(true);
								stop.current.abort();
							}}
						>
							{stopping ? words.stopping : words.cancel}
						</Button>
					)}
				</Group>
			</Stack>
		);
	}
	return (
		<form onSubmit={submit} noValidate>
			<Stack gap="md">
				<Text size="sm">{words.texts[act]}</Text>
				{act === "move" && (
					<GroupInput
						label={t.devices.editor.group}
						value={group}
						onChange={setGroup}
						error={wrong}
						data-autofocus
						required
						withAsterisk={false}
					/>
				)}
				{act === "delete" && (
					<TextInput
						label={words.typeCount(todo.length)}
						value={typed}
						onChange={(e) => setTyped(e.currentTarget.value)}
						autoComplete="off"
						inputMode="numeric"
						data-autofocus
					/>
				)}
				<Group justify="flex-end" gap="xs">
					<Button variant="default" onClick={onClose}>
						{t.common.cancel}
					</Button>
					<Button
						type="submit"
						color={act === "delete" || act === "disable" ? "red" : "brand"}
						disabled={
							(act === "delete" && typed.trim() !== String(todo.length)) || (act === "move" && group.trim() === "")
						}
					>
						{words.buttons[act]}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}
