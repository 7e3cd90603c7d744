import { Alert, Button, Group, Stack, Text } from "@mantine/core";
import { IconAlertTriangle } from "@tabler/icons-react";
import type { ReactNode } from "react";
import { ApiError } from "../api/client";
import { t } from "../strings";

/** A refusal in place: what failed, what to do, and a button that tries again if there is something to try. */
export function Problem({
	error,
	onRetry,
	retry = t.common.retry,
	children,
}: {
	error: unknown;
	onRetry?: () => void;
	/** What the button says. */
	retry?: string;
	/** What else is to be said. */
	children?: ReactNode;
}) {
	if (!error) return null;
	const e = error instanceof Error ? error : new Error(String(error));
	const hint = e instanceof ApiError ? e.hint : undefined;
	return (
		<Alert color="red" variant="light" icon={<IconAlertTriangle size={18} />} role="alert" title={e.message}>
			<Stack gap="sm">
				{children}
				<Group justify="space-between" gap="sm">
					{hint && <Text size="sm">{hint}</Text>}
					{onRetry && (
						<Button size="compact-sm" variant="default" onClick={onRetry}>
							{retry}
						</Button>
					)}
				</Group>
			</Stack>
		</Alert>
	);
}
