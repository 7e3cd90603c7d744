import {
	createRootRoute,
	createRoute,
	createRouter,
	lazyRouteComponent,
	Outlet,
	redirect,
} from "@tanstack/react-router";
import { ApiError } from "./api/client";
import { gatewayQuery, meQuery, queryClient } from "./api/queries";
import { CrashedPage, NotFoundPage } from "./pages/fallback";
import { isOwnPath, SignInPage } from "./pages/signIn";
import { PasswordDialog } from "./ui/dialogs";
import { SessionGate } from "./ui/sessionGate";
import { Shell } from "./ui/shell";

const root = createRootRoute({
	component: Outlet,
	notFoundComponent: NotFoundPage,
});

/** Everything below needs somebody who is signed in; who isn't, signs in and comes back. */
const signedIn = createRoute({
	getParentRoute: () => root,
	id: "signed-in",
	beforeLoad: async ({ location }) => {
		try {
			await queryClient.ensureQueryData(meQuery);
		} catch (e) {
			if (!(e instanceof ApiError) || e.status !== 401) throw e;
			const gateway = await queryClient.fetchQuery(gatewayQuery);
			if (!gateway.set_up) throw redirect({ to: "/setup" });
			throw redirect({
				to: "/signin",
				search: location.href === "/" || location.href === "/devices" ? {} : { next: location.href },
			});
		}
	},
	component: () => (
		<>
			<Outlet />
			<PasswordDialog />
			<SessionGate />
		</>
	),
});

const shell = createRoute({ getParentRoute: () => signedIn, id: "shell", component: () => <Shell /> });

const home = createRoute({
	getParentRoute: () => root,
	path: "/",
	beforeLoad: () => {
		throw redirect({ to: "/devices", replace: true });
	},
});

const signIn = createRoute({
	getParentRoute: () => root,
	path: "/signin",
	component: SignInPage,
	validateSearch: (s: Record<string, unknown>): { next?: string } => (isOwnPath(s.next) ? { next: s.next } : {}),
});

const setUp = createRoute({
	getParentRoute: () => root,
	path: "/setup",
	component: lazyRouteComponent(() => import("./pages/setUp"), "SetUpPage"),
});
const signUp = createRoute({
	getParentRoute: () => root,
	path: "/signup",
	component: lazyRouteComponent(() => import("./pages/signUp"), "SignUpPage"),
});
const cli = createRoute({
	getParentRoute: () => root,
	path: "/cli",
	component: lazyRouteComponent(() => import("./pages/cli"), "CliPage"),
});
/** A page's search parameters are checked by the page itself; the router hands on strings, numbers and lists. */
export type Search = Record<string, unknown>;
const search = (s: Search): Search => s;

const docs = createRoute({
	getParentRoute: () => root,
	path: "/api/docs",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/docs"), "DocsPage"),
});

const devices = createRoute({
	getParentRoute: () => shell,
	path: "/devices",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/devices"), "DevicesPage"),
});
const device = createRoute({
	getParentRoute: () => shell,
	path: "/devices/$id",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/device"), "DevicePage"),
});
const tokens = createRoute({
	getParentRoute: () => shell,
	path: "/tokens",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/tokens"), "TokensPage"),
});
const groups = createRoute({
	getParentRoute: () => shell,
	path: "/groups",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/groups"), "GroupsPage"),
});
const sessions = createRoute({
	getParentRoute: () => shell,
	path: "/sessions",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/sessions"), "SessionsPage"),
});
const events = createRoute({
	getParentRoute: () => shell,
	path: "/events",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/events"), "EventsPage"),
});
const audit = createRoute({
	getParentRoute: () => shell,
	path: "/audit",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/audit"), "AuditPage"),
});
const account = createRoute({
	getParentRoute: () => shell,
	path: "/account",
	component: lazyRouteComponent(() => import("./pages/account"), "AccountPage"),
});
const profile = createRoute({
	getParentRoute: () => shell,
	path: "/profile",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/profile"), "ProfilePage"),
});
const terminal = createRoute({
	getParentRoute: () => signedIn,
	path: "/terminal/$id",
	validateSearch: search,
	component: lazyRouteComponent(() => import("./pages/terminal"), "TerminalPage"),
});

export const router = createRouter({
	routeTree: root.addChildren([
		home,
		signIn,
		setUp,
		signUp,
		cli,
		docs,
		signedIn.addChildren([
			shell.addChildren([devices, device, tokens, groups, sessions, events, audit, account, profile]),
			terminal,
		]),
	]),
	defaultNotFoundComponent: NotFoundPage,
	defaultErrorComponent: CrashedPage,
	defaultPreload: "intent",
	scrollRestoration: true,
});

declare module "@tanstack/react-router" {
	interface Register {
		router: typeof router;
	}
}
