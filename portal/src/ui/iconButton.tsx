import { ActionIcon, Tooltip } from "@mantine/core";
import type { ReactNode } from "react";

/** An icon that does something, with its name for screen readers and on hover. */
export function IconButton({
	label,
	onClick,
	disabled = false,
	pressed,
	size = 28,
	variant = "subtle",
	children,
}: {
	label: string;
	onClick: () => void;
	disabled?: boolean;
	/** It is a switch, and on or off. */
	pressed?: boolean;
	/** In px. */
	size?: number;
	variant?: "subtle" | "default";
	children: ReactNode;
}) {
	return (
		<Tooltip label={label} disabled={disabled}>
			<ActionIcon
				variant={pressed ? "light" : variant}
				color={pressed ? "brand" : "gray"}
				size={size}
				aria-label={label}
				aria-pressed={pressed}
				disabled={disabled}
				onClick={onClick}
			>
				{children}
			</ActionIcon>
		</Tooltip>
	);
}
