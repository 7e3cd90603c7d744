import {
	ActionIcon,
	Burger,
	Drawer,
	Kbd,
	type MantineColorScheme,
	Menu,
	Tooltip,
	UnstyledButton,
	useMantineColorScheme,
	VisuallyHidden,
} from "@mantine/core";
import { useDisclosure, useOs } from "@mantine/hooks";
import { spotlight } from "@mantine/spotlight";
import {
	IconActivity,
	IconApi,
	IconBuilding,
	IconChevronDown,
	IconDeviceDesktop,
	IconKey,
	IconListDetails,
	IconLogout,
	IconMoon,
	IconPlugConnected,
	IconSearch,
	IconServer2,
	IconShieldCheck,
	IconSun,
	IconTags,
	IconUser,
} from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, Outlet, useNavigate, useRouterState } from "@tanstack/react-router";
import { type ComponentType, type ReactNode, useEffect } from "react";
import { api, ask } from "../api/client";
import { follow, useLiveState } from "../api/live";
import { gatewayQuery, meQuery, queryClient } from "../api/queries";
import { t } from "../strings";
import { Palette } from "./palette";
import classes from "./shell.module.css";
import { Dot } from "./status";
import { failed } from "./toast";

interface Item {
	to: "/devices" | "/tokens" | "/groups" | "/sessions" | "/events" | "/audit" | "/account" | "/profile" | "/api/docs";
	label: string;
	icon: ComponentType<{ size?: number; stroke?: number }>;
	/** What the role must allow. */
	right?: string;
}

export const pages: readonly { section?: string; items: readonly Item[] }[] = [
	{
		section: t.shell.sections.reach,
		items: [
			{ to: "/devices", label: t.shell.devices, icon: IconServer2, right: "devices:read" },
			{ to: "/groups", label: t.shell.groups, icon: IconTags, right: "devices:read" },
			{ to: "/tokens", label: t.shell.tokens, icon: IconKey, right: "tokens:read" },
		],
	},
	{
		section: t.shell.sections.observe,
		items: [
			{ to: "/sessions", label: t.shell.sessions, icon: IconPlugConnected, right: "sessions:read" },
			{ to: "/events", label: t.shell.events, icon: IconActivity, right: "events:read" },
			{ to: "/audit", label: t.shell.audit, icon: IconShieldCheck, right: "audit:read" },
		],
	},
	{
		section: t.shell.sections.settings,
		items: [
			{ to: "/account", label: t.shell.account, icon: IconBuilding, right: "account:read" },
			{ to: "/profile", label: t.shell.profile, icon: IconUser },
			{ to: "/api/docs", label: t.shell.api, icon: IconApi },
		],
	},
];

/** What surrounds the pages of somebody who is signed in. */
export function Shell({ children }: { children?: ReactNode }) {
	const [menu, { open, close }] = useDisclosure(false);
	const path = useRouterState({ select: (s) => s.location.pathname });
	// biome-ignore lint/correctness/useExhaustiveDependencies: another page closes the menu
	useEffect(close, [path]);
	useEffect(() => follow(), []);
	return (
		<div className={classes.shell}>
			<a className={classes.skip} href="#content">
				{t.shell.skip}
			</a>
			<aside className={classes.sidebar}>
				<Sidebar />
			</aside>
			<section className={classes.topbar} aria-label={t.common.product}>
				<Burger opened={menu} onClick={open} size="sm" aria-label={t.shell.menu} />
				<Link to="/devices" className={classes.brand}>
					<img src="/icon.svg" alt="" width={24} height={24} />
					{t.common.product}
				</Link>
				<ActionIcon variant="subtle" color="gray" size={36} aria-label={t.shell.searchHelp} onClick={spotlight.open}>
					<IconSearch size={18} />
				</ActionIcon>
			</section>
			<Drawer
				opened={menu}
				onClose={close}
				size={280}
				withCloseButton={false}
				title={t.shell.menu}
				classNames={{ header: classes.drawerHeader ?? "", body: classes.drawer ?? "" }}
			>
				<Sidebar />
			</Drawer>
			<main className={classes.main} id="content" tabIndex={-1}>
				{children ?? <Outlet />}
			</main>
			<Palette />
		</div>
	);
}

function Sidebar() {
	const me = useQuery(meQuery).data;
	const gateway = useQuery(gatewayQuery).data;
	const os = useOs();
	return (
		<div className={classes.inside}>
			<Link to="/devices" className={classes.brand}>
				<img src="/icon.svg" alt="" width={26} height={26} />
				<span>{t.common.product}</span>
			</Link>
			<UnstyledButton className={classes.search} onClick={spotlight.open} title={t.shell.searchHelp}>
				<IconSearch size={15} aria-hidden />
				<span>{t.shell.search}</span>
				<span className={classes.keys} aria-hidden>
					<Kbd size="xs">{os === "macos" ? "⌘" : "Ctrl"}</Kbd>
					<Kbd size="xs">K</Kbd>
				</span>
			</UnstyledButton>
			<nav className={classes.nav} aria-label={t.shell.navigation}>
				{pages.map((s) => (
					<div key={s.section} className={classes.section}>
						<p className={classes.sectionTitle}>{s.section}</p>
						{s.items
							.filter((i) => !i.right || !me || me.rights.includes(i.right))
							.map((i) => (
								<Link key={i.to} to={i.to} className={classes.link} activeProps={{ "aria-current": "page" }}>
									<i.icon size={17} stroke={1.7} />
									{i.label}
								</Link>
							))}
					</div>
				))}
			</nav>
			<div className={classes.foot}>
				<Live />
				<UserMenu />
				{gateway && <p className={classes.version}>{t.shell.version(gateway.version)}</p>}
			</div>
		</div>
	);
}

function Live() {
	const state = useLiveState();
	return (
		<Tooltip label={t.shell.liveHelp[state]} multiline maw={240} position="right">
			<output className={classes.live}>
				<Dot tone={state === "live" ? "good" : state === "interrupted" ? "warn" : "off"} pulse={state !== "live"} />
				{t.shell.live[state]}
			</output>
		</Tooltip>
	);
}

/** Ends the sign-in and leaves nothing of it in memory. */
export async function signOut(everywhere: boolean) {
	await ask(everywhere ? api.DELETE("/api/v1/me/signins") : api.POST("/api/v1/signout"));
	queryClient.clear();
	location.assign("/signin");
}

const schemes = [
	{ value: "auto", icon: IconDeviceDesktop },
	{ value: "light", icon: IconSun },
	{ value: "dark", icon: IconMoon },
] as const;

function UserMenu() {
	const me = useQuery(meQuery).data;
	const { colorScheme, setColorScheme } = useMantineColorScheme({ keepTransitions: true }); // else by a style element without the nonce
	const navigate = useNavigate();
	if (!me) return null;
	const name = me.user.name || me.user.email;
	return (
		<Menu position="top-start" width={236}>
			<Menu.Target>
				<UnstyledButton className={classes.user}>
					<VisuallyHidden>{t.shell.signedInAs}</VisuallyHidden>
					<span className={classes.avatar} aria-hidden>
						{name.slice(0, 1).toUpperCase()}
					</span>
					<span className={classes.who}>
						<span className="truncate">{name}</span>
						<span className={`truncate ${classes.accountName}`}>{me.account.name}</span>
					</span>
					<IconChevronDown size={15} aria-hidden />
				</UnstyledButton>
			</Menu.Target>
			<Menu.Dropdown>
				<Menu.Label className="truncate">{me.user.email}</Menu.Label>
				<Menu.Item leftSection={<IconUser size={16} />} onClick={() => navigate({ to: "/profile" })}>
					{t.shell.profile}
				</Menu.Item>
				<Menu.Divider />
				<Menu.Label>{t.shell.scheme}</Menu.Label>
				<Menu.RadioGroup value={colorScheme} onChange={(v) => setColorScheme(v as MantineColorScheme)}>
					{schemes.map((s) => (
						<Menu.RadioItem key={s.value} value={s.value} rightSection={<s.icon size={16} />}>
							{t.shell.schemes[s.value]}
						</Menu.RadioItem>
					))}
				</Menu.RadioGroup>
				<Menu.Divider />
				<Menu.Item leftSection={<IconListDetails size={16} />} onClick={() => signOut(true).catch(failed)}>
					{t.shell.signOutAll}
				</Menu.Item>
				<Menu.Item leftSection={<IconLogout size={16} />} onClick={() => signOut(false).catch(failed)}>
					{t.shell.signOut}
				</Menu.Item>
			</Menu.Dropdown>
		</Menu>
	);
}
