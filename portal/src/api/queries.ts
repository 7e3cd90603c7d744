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
