import { Button, Group, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconAlertTriangle, IconCheck } from "@tabler/icons-react";
import { ApiError } from "../api/client";
import { t } from "../strings";

const closeButtonProps = { "aria-label": t.common.close };

/** Says that something was done. */
export function done(message: string) {
	notifications.show({ message, icon: <IconCheck size={16} />, color: "green", autoClose: 4000, closeButtonProps });
}

/** Says what failed and what to do about it; it stays until it is closed. */
export function failed(error: unknown, title: string = t.common.problem.title) {
	const e = error instanceof Error ? error : new Error(String(error));
	notifications.show({
		title,
		message: [e.message, e instanceof ApiError ? e.hint : undefined].filter(Boolean).join(" "),
		icon: <IconAlertTriangle size={16} />,
		color: "red",
		autoClose: false,
		closeButtonProps,
	});
}

/** How long an act waits to be undone. */
export const undoTime = 5000;

/**
 * Says what is about to be done, and does it after 5 s unless it is undone. A page
 * that is left meanwhile does it at once.
 */
export function doUnlessUndone(message: string, act: () => Promise<unknown>, onUndo?: () => void) {
	let over = false;
	const go = () => {
		if (over) return;
		over = true;
		removeEventListener("pagehide", go);
		clearTimeout(timer);
		notifications.hide(id);
		act().catch((e) => {
			failed(e);
			onUndo?.();
		});
	};
	const undo = () => {
		if (over) return;
		over = true;
		removeEventListener("pagehide", go);
		clearTimeout(timer);
		notifications.hide(id);
		onUndo?.();
	};
	const timer = setTimeout(go, undoTime);
	addEventListener("pagehide", go);
	const id = notifications.show({
		message: (
			<Group justify="space-between" wrap="nowrap" gap="sm">
				<Text size="sm">{message}</Text>
				<Button size="compact-sm" variant="light" flex="none" onClick={undo}>
					{t.common.undo}
				</Button>
			</Group>
		),
		withCloseButton: false,
		autoClose: false,
	});
}
