import {
	Alert,
	Autocomplete,
	Button,
	Checkbox,
	Group,
	Modal,
	MultiSelect,
	NumberInput,
	Radio,
	Select,
	Stack,
	TagsInput,
	Text,
	TextInput,
} from "@mantine/core";
import { IconAlertTriangle, IconCheck } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, ask, type Me, type Schemas } from "../api/client";
import { groupsQuery, queryClient } from "../api/queries";
import { t } from "../strings";
import { PickDevices } from "../ui/pick";
import { Problem } from "../ui/problem";
import { fromNow } from "../ui/time";
import { useAct } from "../ui/useAct";
import { allRights, type Kind, kinds, lifeWords, livesOf, readRights, usualRights } from "./tokenRules";
import classes from "./tokens.module.css";
import { TokenCommands } from "./tokenText";

/** The dialog that makes a token; open while there is a kind. It makes one when its button is pressed, and never by a link. */
export function CreateToken({
	kind,
	me,
	device,
	group,
	onKind,
	onClose,
}: {
	kind: Kind | undefined;
	me: Me;
	/** What a link asks for: an access token for this device, a token for this group. */
	device: string | undefined;
	group: string | undefined;
	onKind: (kind: Kind) => void;
	onClose: () => void;
}) {
	const [created, setCreated] = useState<Schemas["CreatedToken"]>();
	const close = () => {
		setCreated(undefined);
		onClose();
	};
	return (
		<Modal
			opened={kind !== undefined}
			onClose={close}
			size={640}
			title={<Text fw={600}>{created ? t.tokens.created.title : t.tokens.form.title}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
			// A token that was not copied yet is not to go with a stray click.
			closeOnClickOutside={!created}
		>
			{kind !== undefined &&
				(created ? (
					<Created token={created} onClose={close} />
				) : (
					<Form
						kind={kind}
						me={me}
						device={device}
						group={group}
						onKind={onKind}
						onClose={close}
						onCreated={setCreated}
					/>
				))}
		</Modal>
	);
}

function Created({ token, onClose }: { token: Schemas["CreatedToken"]; onClose: () => void }) {
	return (
		<Stack gap="md">
			<Alert color="green" variant="light" icon={<IconCheck size={18} />} role="status">
				{t.tokens.created.text(token.name, fromNow(new Date(token.expires_at)))}
			</Alert>
			<div className={classes.text}>
				<TokenCommands token={token} text={token.token} />
			</div>
			<Group justify="space-between" gap="sm">
				<Text size="xs" c="dimmed">
					{t.tokens.created.again}
				</Text>
				<Button onClick={onClose}>{t.tokens.created.close}</Button>
			</Group>
		</Stack>
	);
}

const custom = "custom";

function Form({
	kind,
	me,
	device,
	group,
	onKind,
	onClose,
	onCreated,
}: {
	kind: Kind;
	me: Me;
	device: string | undefined;
	group: string | undefined;
	onKind: (kind: Kind) => void;
	onClose: () => void;
	onCreated: (token: Schemas["CreatedToken"]) => void;
}) {
	const f = t.tokens.form;
	const groups = useQuery(groupsQuery).data?.map((g) => g.name) ?? [];
	const life = livesOf(kind, me.account);
	const [name, setName] = useState("");
	/** undefined: the usual one of the kind. */
	const [preset, setPreset] = useState<string>();
	const [amount, setAmount] = useState<number | string>(2);
	const [unit, setUnit] = useState<keyof typeof f.units>("3600");
	const [uses, setUses] = useState<number | string>(1);
	const [gives, setGives] = useState(group ?? "");
	const [pattern, setPattern] = useState("");
	const [devices, setDevices] = useState<string[]>(device ? [device] : []);
	const [inGroups, setInGroups] = useState<string[]>(group ? [group] : []);
	const [ports, setPorts] = useState<string[]>([]);
	const [networks, setNetworks] = useState<string[]>([]);
	const [rights, setRights] = useState<string[]>(usualRights);
	const { busy, error, run } = useAct();

	const chosen = preset === custom || life.presets.some((s) => String(s) === preset) ? preset : String(life.usual);
	const seconds = chosen === custom ? Number(amount) * Number(unit) : Number(chosen);
	const lifeError = seconds > life.longest ? f.tooLong(lifeWords(life.longest)) : seconds >= 1 ? undefined : f.shortest;
	const portError = ports.some((p) => !/^[1-9]\d{0,4}$/.test(p) || Number(p) > 65535) ? f.badPort : undefined;
	const rightsError = kind === "api" && rights.length === 0 ? f.rightsNone : undefined;

	const submit = async (e: FormEvent) => {
		e.preventDefault();
		if (lifeError || portError || rightsError) return;
		const scope: Schemas["TokenScope"] = {};
		if (networks.length > 0) scope.networks = networks;
		if (kind === "registration") {
			if (gives.trim()) scope.group = gives.trim();
			if (pattern.trim()) scope.name_pattern = pattern.trim();
		}
		if (kind === "access") {
			if (devices.length > 0) scope.devices = devices;
			if (inGroups.length > 0) scope.groups = inGroups;
			if (ports.length > 0) scope.ports = ports.map(Number);
		}
		if (kind === "api") scope.rights = rights;
		await run(async () => {
			const token = await ask(
				api.POST("/api/v1/tokens", {
					body: {
						kind,
						name: name.trim(),
						expires_in: seconds,
						...(kind === "registration" ? { max_uses: Number(uses) } : {}),
						...(Object.keys(scope).length > 0 ? { scope } : {}),
					},
				}),
			);
			void queryClient.invalidateQueries({ queryKey: ["tokens"] });
			onCreated(token);
		});
	};

	return (
		<form onSubmit={submit}>
			<Stack gap="md">
				<Radio.Group label={f.kind} value={kind} onChange={(v) => onKind(v as Kind)}>
					<div className={classes.kinds}>
						{kinds.map((k) => {
							const off = k === "basic" && !me.account.basic_tokens;
							return (
								<Radio.Card
									key={k}
									value={k}
									className={classes.kind ?? ""}
									disabled={off}
									data-disabled={off || undefined}
								>
									<Radio.Indicator size="xs" mt={3} disabled={off} />
									<div>
										<div className={classes.kindName}>{t.tokens.kinds[k]}</div>
										<div className={classes.note}>{off ? f.basicOff : f.kinds[k]}</div>
									</div>
								</Radio.Card>
							);
						})}
					</div>
				</Radio.Group>
				{kind === "basic" && (
					<Alert color="yellow" variant="light" icon={<IconAlertTriangle size={18} />} title={f.basicTitle}>
						{f.basicText}
					</Alert>
				)}
				<TextInput
					label={f.name}
					description={f.nameHelp}
					placeholder={f.namePlaceholder[kind]}
					required
					maxLength={128}
					autoComplete="off"
					value={name}
					onChange={(e) => setName(e.currentTarget.value)}
					data-autofocus
				/>
				<div className={classes.pair}>
					<Select
						label={f.expires}
						data={[
							...life.presets.map((s) => ({ value: String(s), label: lifeWords(s) })),
							{ value: custom, label: f.custom },
						]}
						value={chosen ?? null}
						onChange={(v) => setPreset(v ?? undefined)}
						error={chosen === custom ? undefined : lifeError}
					/>
					{chosen === custom && (
						<div className={classes.custom}>
							<NumberInput
								label={f.customLabel}
								min={1}
								allowDecimal={false}
								allowNegative={false}
								clampBehavior="none"
								value={amount}
								onChange={setAmount}
								error={lifeError}
							/>
							<Select
								label={f.unit}
								data={Object.entries(f.units).map(([value, label]) => ({ value, label }))}
								value={unit}
								onChange={(v) => setUnit(v as typeof unit)}
							/>
						</div>
					)}
					{kind === "registration" && (
						<NumberInput
							label={f.uses}
							min={1}
							max={10_000}
							allowDecimal={false}
							value={uses}
							onChange={setUses}
							required
						/>
					)}
				</div>
				{!lifeError && seconds > life.advised && (
					<Alert color="yellow" variant="light" icon={<IconAlertTriangle size={18} />} p="sm">
						{f.advice(lifeWords(seconds))}
					</Alert>
				)}
				{kind === "registration" && (
					<div className={classes.pair}>
						<Autocomplete
							label={f.group}
							description={f.groupHelp}
							data={groups}
							value={gives}
							onChange={setGives}
							maxLength={63}
						/>
						<TextInput
							label={f.pattern}
							description={f.patternHelp}
							placeholder={f.patternPlaceholder}
							value={pattern}
							onChange={(e) => setPattern(e.currentTarget.value)}
							maxLength={128}
							spellCheck={false}
						/>
					</div>
				)}
				{kind === "access" && (
					<>
						<div className={classes.pair}>
							<PickDevices label={f.devices} placeholder={f.anyDevice} value={devices} onChange={setDevices} />
							<MultiSelect
								label={f.groups}
								placeholder={inGroups.length === 0 ? f.anyGroup : ""}
								searchable
								data={[...new Set([...groups, ...inGroups])]}
								value={inGroups}
								onChange={setInGroups}
								nothingFoundMessage={t.common.nothingFound}
							/>
						</div>
						<TagsInput
							label={f.ports}
							description={f.portsHelp}
							placeholder={ports.length === 0 ? f.anyPort : ""}
							value={ports}
							onChange={setPorts}
							error={portError}
							splitChars={[",", " "]}
							maxTags={64}
							inputMode="numeric"
						/>
					</>
				)}
				{kind === "api" && (
					<Checkbox.Group label={f.rights} value={rights} onChange={setRights} error={rightsError}>
						<Group gap={6} my={6}>
							<Button size="compact-xs" variant="default" onClick={() => setRights(usualRights)}>
								{f.rightsAll}
							</Button>
							<Button size="compact-xs" variant="default" onClick={() => setRights(readRights)}>
								{f.rightsRead}
							</Button>
						</Group>
						<div className={classes.rights}>
							{allRights.map((r) => (
								<Checkbox key={r} size="xs" value={r} label={t.rights[r]} disabled={!me.rights.includes(r)} />
							))}
						</div>
					</Checkbox.Group>
				)}
				<TagsInput
					label={f.networks}
					description={f.networksHelp}
					placeholder={networks.length === 0 ? f.anywhere : ""}
					value={networks}
					onChange={setNetworks}
					splitChars={[",", " "]}
					maxTags={32}
				/>
				<Problem error={error} />
				<Group justify="flex-end" gap="xs">
					<Button variant="default" onClick={onClose}>
						{t.common.cancel}
					</Button>
					<Button type="submit" loading={busy}>
						{f.submit}
					</Button>
				</Group>
			</Stack>
		</form>
	);
}
