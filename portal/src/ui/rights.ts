import { useQuery } from "@tanstack/react-query";
import { meQuery } from "../api/queries";

/** Whether who is signed in may do something, by the name of the right; the gateway decides again. */
export function useRight(right: string): boolean {
	return useQuery(meQuery).data?.rights.includes(right) ?? false;
}
