import { Button, Group, Modal, Skeleton, Stack, Text, TextInput } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { ApiError, api, ask, type Device, type Schemas } from "../api/client";
import { deviceQuery, queryClient } from "../api/queries";
import { t } from "../strings";
import { Confirm } from "../ui/dialogs";
import { Problem } from "../ui/problem";
import { done, failed } from "../ui/toast";
import { calling, GroupInput, isDeviceName, isLabel } from "./deviceParts";

/** The lists are asked again also where no event comes. */
export function devicesChanged() {
	void queryClient.invalidateQueries({ queryKey: ["devices"] });
	void queryClient.invalidateQueries({ queryKey: ["groups"] });
}

export const disable = (id: string) => ask(api.POST("/api/v1/devices/{id}/disable", { params: { path: { id } } }));
export const enable = (id: string) => ask(api.POST("/api/v1/devices/{id}/enable", { params: { path: { id } } }));
export const release = (id: string) => ask(api.POST("/api/v1/devices/{id}/release", { params: { path: { id } } }));
export const update = (id: string, body: Schemas["UpdateDeviceRequest"]) =>
	ask(api.PATCH("/api/v1/devices/{id}", { params: { path: { id } }, body }));

/** Deletes a device; one that is gone already is what was asked for. */
export async function remove(id: string) {
	try {
		await ask(api.DELETE("/api/v1/devices/{id}", { params: { path: { id } } }));
	} catch (e) {
		if (!(e instanceof ApiError) || e.status !== 404) throw e;
	}
}

export type DeviceAct = "disable" | "enable" | "release" | "delete";

/** What is done to one device: `start` asks first where something ends by it. `dialogs` must be shown. */
export function useDeviceActs(onDeleted?: () => void): {
	start: (act: DeviceAct, device: Device) => void;
	dialogs: ReactNode;
} {
	const [asked, setAsked] = useState<{ act: DeviceAct; device: Device } | undefined>();
	const [opened, setOpened] = useState(false);
	const start = (act: DeviceAct, device: Device) => {
		if (act === "enable") {
			enable(device.id).then(() => {
				done(t.devices.enabled(calling(device)));
				devicesChanged();
			}, failed);
			return;
		}
		setAsked({ act, device });
		setOpened(true);
	};
	const name = asked ? calling(asked.device) : "";
	const dialog = (act: Exclude<DeviceAct, "enable">, run: (id: string) => Promise<unknown>, more: ReactNode) => {
		const words = { disable: t.devices.disabling, release: t.devices.releasing, delete: t.devices.deleting }[act];
		return (
			<Confirm
				title={words.title(name)}
				button={words.button}
				{...(act === "delete" && asked ? { word: asked.device.name } : {})}
				opened={opened && asked?.act === act}
				onClose={() => setOpened(false)}
				act={async () => {
					if (!asked) return;
					await run(asked.device.id);
					done(words.done(name));
					if (act === "delete") onDeleted?.();
					devicesChanged();
				}}
			>
				<Stack gap="xs">
					<Text size="sm">{words.text}</Text>
					{more}
				</Stack>
			</Confirm>
		);
	};
	return {
		start,
		dialogs: (
			<>
				{dialog("disable", disable, null)}
				{dialog("release", release, <Text size="sm">{t.devices.releasing.otherwise}</Text>)}
				{dialog("delete", remove, null)}
			</>
		),
	};
}

/** Edits the device with this id, while there is one. */
export function EditDevice({ id, onClose }: { id: string | undefined; onClose: () => void }) {
	const device = useQuery({ ...deviceQuery(id ?? ""), enabled: id !== undefined });
	return (
		<Modal
			opened={id !== undefined}
			onClose={onClose}
			title={<Text fw={600}>{t.devices.editor.title(device.data ? calling(device.data) : "")}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
		>
			{device.error ? (
				<Problem error={device.error} onRetry={() => device.refetch()} />
			) : device.data ? (
				<DeviceForm key={device.data.id} device={device.data} onDone={onClose} onCancel={onClose} />
			) : (
				<Stack gap="md" aria-busy>
					<Skeleton height={52} />
					<Skeleton height={52} />
					<Skeleton height={52} />
				</Stack>
			)}
		</Modal>
	);
}

/** Name, display name and group of a device. What is wrong stands at its field. */
export function DeviceForm({
	device,
	onDone,
	onCancel,
}: {
	device: Device;
	onDone: () => void;
	onCancel?: () => void;
}) {
	// What the form began with: what others change meanwhile is not changed back.
	const [base, setBase] = useState(device);
	const [name, setName] = useState(device.name);
	const [displayName, setDisplayName] = useState(device.display_name);
	const [group, setGroup] = useState(device.group);
	const [busy, setBusy] = useState(false);
	const [wrong, setWrong] = useState<Partial<Record<"name" | "display_name" | "group", string>>>({});
	const [error, setError] = useState<unknown>();
	const changes = {
		...(name.trim() !== base.name ? { name: name.trim() } : {}),
		...(displayName.trim() !== base.display_name ? { display_name: displayName.trim() } : {}),
		...(group.trim() !== base.group ? { group: group.trim() } : {}),
	};
	const submit = async (e: FormEvent) => {
		e.preventDefault();
		setError(undefined);
		const found = {
			...(changes.name !== undefined && !isLabel(changes.name) ? { name: t.devices.editor.labelRule } : {}),
			...(changes.group !== undefined && !isLabel(changes.group) ? { group: t.devices.editor.labelRule } : {}),
		};
		setWrong(found);
		if (Object.keys(found).length > 0) return;
		setBusy(true);
		try {
			const d = await update(device.id, changes);
			queryClient.setQueryData(deviceQuery(device.id).queryKey, d);
			setBase(d);
			devicesChanged();
			done(t.devices.editor.saved(calling(d)));
			onDone();
		} catch (e) {
			const at = fieldOf(e, changes.name);
			if (at) setWrong(at);
			else setError(e);
		} finally {
			setBusy(false);
		}
	};
	return (
		<form onSubmit={submit} noValidate>
			<Stack gap="md">
				<TextInput
					label={t.devices.editor.name}
					description={t.devices.editor.nameHelp}
					value={name}
					onChange={(e) => {
						setName(e.currentTarget.value);
						setWrong({});
					}}
					error={wrong.name}
					maxLength={63}
					required
					withAsterisk={false}
					spellCheck={false}
					autoComplete="off"
					data-autofocus
				/>
				<TextInput
					label={t.devices.editor.displayName}
					description={t.devices.editor.displayNameHelp}
					value={displayName}
					onChange={(e) => setDisplayName(e.currentTarget.value)}
					error={wrong.display_name}
					maxLength={128}
					autoComplete="off"
				/>
				<GroupInput
					label={t.devices.editor.group}
					description={t.devices.editor.groupHelp}
					value={group}
					onChange={(v) => {
						setGroup(v);
						setWrong({});
					}}
					error={wrong.group}
				/>
				<Problem error={error} />
				<Group justify="flex-end" gap="xs">
					{onCancel && (
						<Button variant="default" onClick={onCancel}>
							{t.common.cancel}
						</Button>
					)}
					<Button type="submit" loading={busy} disabled={Object.keys(changes).length === 0}>
						{t.common.save}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}

/** At which field a refusal belongs. */
function fieldOf(e: unknown, name: string | undefined) {
	if (!(e instanceof ApiError)) return undefined;
	const fields: Record<string, string> = {};
	for (const f of ["name", "display_name", "group"]) {
		const said = e.fields.get(`body.${f}`);
		if (said) fields[f] = said;
	}
	if (Object.keys(fields).length > 0) return fields;
	if (name === undefined) return undefined;
	if (e.code === "conflict") return { name: t.devices.editor.taken };
	if (e.code === "invalid" && !isDeviceName(name)) return { name: [e.message, e.hint].filter(Boolean).join(" ") };
	return undefined;
}
