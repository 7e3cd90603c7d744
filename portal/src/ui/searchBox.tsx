import { CloseButton, TextInput } from "@mantine/core";
import { useHotkeys } from "@mantine/hooks";
import { IconSearch } from "@tabler/icons-react";
import { useEffect, useEffectEvent, useRef, useState } from "react";
import { t } from "../strings";

/** How long nobody must have typed until it is searched. */
export const typingTime = 200;

/**
 * A field that searches as one types. `value` is what is searched now; another one
 * from outside (the back button) is taken over. "/" leads here from anywhere on the page.
 */
export function SearchBox({
	value,
	onSearch,
	label,
	maxLength = 128,
}: {
	value: string;
	onSearch: (text: string) => void;
	label: string;
	maxLength?: number;
}) {
	const [typed, setTyped] = useState(value);
	const told = useRef(value);
	const input = useRef<HTMLInputElement>(null);
	const tell = useEffectEvent((text: string) => {
		told.current = text;
		onSearch(text);
	});
	useEffect(() => {
		if (value === told.current) return;
		told.current = value;
		setTyped(value);
	}, [value]);
	useEffect(() => {
		const text = typed.trim();
		if (text === told.current) return;
		const timer = setTimeout(() => tell(text), typingTime);
		return () => clearTimeout(timer);
	}, [typed]);
	useHotkeys([["/", () => input.current?.focus()]]);
	return (
		<TextInput
			ref={input}
			type="search"
			aria-label={label}
			placeholder={label}
			value={typed}
			onChange={(e) => setTyped(e.currentTarget.value)}
			onKeyDown={(e) => {
				if (e.key === "Escape" && typed) setTyped("");
			}}
			leftSection={<IconSearch size={16} aria-hidden />}
			rightSection={
				typed && (
					<CloseButton
						size="sm"
						aria-label={t.common.clearSearch}
						onClick={() => {
							setTyped("");
							input.current?.focus();
						}}
					/>
				)
			}
			autoComplete="off"
			spellCheck={false}
			maxLength={maxLength}
		/>
	);
}
