import { keepPreviousData, QueryClient, queryOptions } from "@tanstack/react-query";
import { ApiError, api, ask } from "./client";

/** The one cache of what the gateway has answered; live events make parts of it stale. */
export const queryClient = new QueryClient({
	defaultOptions: {
		queries: {
			staleTime: 15_000,
			retry: (failures, error) =>
				failures < 2 && (!(error instanceof ApiError) || error.status === 0 || error.status >= 500),
			refetchOnWindowFocus: true,
		},
	},
});

/**
 * How often what shows who is online is asked for without an event: a device that was
 * away for a moment only is not told of, but may have been seen just then.
 */
export const quietly = 20_000;

/** Who is signed in. */
export const meQuery = queryOptions({ queryKey: ["me"], queryFn: () => ask(api.GET("/api/v1/me")), staleTime: 60_000 });

export const gatewayQuery = queryOptions({
	queryKey: ["gateway"],
	queryFn: () => ask(api.GET("/api/v1/gateway")),
	staleTime: 60_000,
});

export type DeviceFilter = NonNullable<import("./schema.gen").operations["list-devices"]["parameters"]["query"]>;

/** A page of devices; the page before stays on the screen while the next one comes. */
export const devicesQuery = (filter: DeviceFilter) =>
	queryOptions({
		queryKey: ["devices", "list", filter],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/devices", { params: { query: filter }, signal })),
		placeholderData: keepPreviousData,
	});

export const deviceQuery = (id: string) =>
	queryOptions({
		queryKey: ["devices", "one", id],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/devices/{id}", { params: { path: { id } }, signal })),
	});

/** All groups: the gateway answers them whole. */
export const groupsQuery = queryOptions({
	queryKey: ["groups"],
	queryFn: async ({ signal }) => (await ask(api.GET("/api/v1/groups", { signal }))).items,
});

type Filter<Operation extends keyof Operations> = NonNullable<Operations[Operation]["parameters"]["query"]>;
type Operations = Pick<
	import("./schema.gen").operations,
	"list-tokens" | "list-sessions" | "list-events" | "list-audit"
>;

export type TokenFilter = Filter<"list-tokens">;

export const tokensQuery = (filter: TokenFilter) =>
	queryOptions({
		queryKey: ["tokens", "list", filter],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/tokens", { params: { query: filter }, signal })),
		placeholderData: keepPreviousData,
	});

/** The newest tokens of all kinds and states: for their names, and for what hangs on what. */
export const recentTokensQuery = tokensQuery({ limit: 200 });

export type SessionFilter = Filter<"list-sessions">;

export const sessionsQuery = (filter: SessionFilter) =>
	queryOptions({
		queryKey: ["sessions", "list", filter],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/sessions", { params: { query: filter }, signal })),
		placeholderData: keepPreviousData,
	});

export type EventFilter = Filter<"list-events">;

export const eventsQuery = (filter: EventFilter) =>
	queryOptions({
		queryKey: ["events", "list", filter],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/events", { params: { query: filter }, signal })),
		placeholderData: keepPreviousData,
	});

export type AuditFilter = Filter<"list-audit">;

export const auditQuery = (filter: AuditFilter) =>
	queryOptions({
		queryKey: ["audit", "list", filter],
		queryFn: ({ signal }) => ask(api.GET("/api/v1/audit", { params: { query: filter }, signal })),
		placeholderData: keepPreviousData,
	});

export const signInsQuery = queryOptions({
	queryKey: ["me", "signins"],
	queryFn: async ({ signal }) => (await ask(api.GET("/api/v1/me/signins", { signal }))).items,
});
