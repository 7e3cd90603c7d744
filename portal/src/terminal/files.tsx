import { Button, FileButton, Group, Modal, Progress, Skeleton, Text, TextInput, UnstyledButton } from "@mantine/core";
import {
	IconArrowUp,
	IconDownload,
	IconFile,
	IconFolder,
	IconFolderPlus,
	IconHome,
	IconLink,
	IconRefresh,
	IconX,
} from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { ApiError } from "../api/client";
import { t } from "../strings";
import { Confirm } from "../ui/dialogs";
import { IconButton } from "../ui/iconButton";
import { Problem } from "../ui/problem";
import { failed } from "../ui/toast";
import { bytes } from "../ui/units";
import classes from "./terminal.module.css";
import { above, download, join, listFolder, makeFolder, upload } from "./transfer";
import type { Carry, Transfer } from "./transfers";

/** The device's files beside a terminal: folders to walk, files to take, and a place to drop some. */
export function Files({
	terminalId,
	transfers,
	carry,
	dropped,
	onTaken,
	onClose,
}: {
	terminalId: string | undefined;
	transfers: readonly Transfer[];
	carry: Carry;
	dropped: File[];
	onTaken: () => void;
	onClose: () => void;
}) {
	const [path, setPath] = useState("");
	const [typed, setTyped] = useState("");
	/** What is there already, and in which folder: the person may have walked on. */
	const [replace, setReplace] = useState<{ folder: string; files: File[] }>();
	const [folder, setFolder] = useState<string>();
	const list = useQuery({
		queryKey: ["files", terminalId, path],
		queryFn: ({ signal }) => listFolder(terminalId ?? "", path, signal),
		enabled: terminalId !== undefined,
		staleTime: 0,
		retry: false,
	});
	const here = list.data?.path ?? path;
	useEffect(() => {
		if (list.data) setTyped(list.data.path);
	}, [list.data]);

	const send = async (files: File[], folder = here, overwrite = false) => {
		if (!terminalId) return;
		const taken: File[] = [];
		for (const f of files) {
			try {
				await carry(t.terminal.uploading(f.name), f.size, (p, s) =>
					upload(terminalId, join(folder, f.name), f, overwrite, p, s),
				);
			} catch (e) {
				if (e instanceof ApiError && e.status === 409 && !overwrite) taken.push(f);
				else failed(e, f.name);
			}
		}
		if (taken.length > 0)
			setReplace((old) => ({ folder, files: old?.folder === folder ? [...old.files, ...taken] : taken }));
		void list.refetch();
	};
	const latest = useRef(send);
	latest.current = send;
	useEffect(() => {
		if (dropped.length > 0 && list.data) {
			onTaken();
			void latest.current(dropped);
		}
	}, [dropped, list.data, onTaken]);

	const go = (e: FormEvent) => {
		e.preventDefault();
		setPath(typed);
	};
	const make = async (e: FormEvent) => {
		e.preventDefault();
		if (!terminalId || !folder) return;
		try {
			await makeFolder(terminalId, join(here, folder));
			setFolder(undefined);
			void list.refetch();
		} catch (e) {
			failed(e);
		}
	};
	const entries = [...(list.data?.entries ?? [])].sort(
		(a, b) => Number(b.type === "directory") - Number(a.type === "directory") || a.name.localeCompare(b.name),
	);
	return (
		<aside className={classes.files} aria-label={t.terminal.fileTitle}>
			<div className={classes.filesHead}>
				<Group justify="space-between" wrap="nowrap">
					<Text fw={600} component="h2" size="sm">
						{t.terminal.fileTitle}
					</Text>
					<IconButton label={t.common.close} onClick={onClose}>
						<IconX size={16} />
					</IconButton>
				</Group>
				<form onSubmit={go}>
					<TextInput
						size="xs"
						aria-label={t.terminal.filesPath}
						value={typed}
						onChange={(e) => setTyped(e.currentTarget.value)}
						maxLength={4096}
						spellCheck={false}
						autoComplete="off"
						classNames={{ input: "mono" }}
						disabled={!terminalId}
					/>
				</form>
				<Group gap={4}>
					<IconButton
						label={t.terminal.filesUp}
						disabled={!list.data || here === "/"}
						onClick={() => setPath(above(here))}
					>
						<IconArrowUp size={16} />
					</IconButton>
					<IconButton label={t.terminal.filesHome} disabled={!terminalId} onClick={() => setPath("")}>
						<IconHome size={16} />
					</IconButton>
					<IconButton label={t.terminal.filesRefresh} disabled={!terminalId} onClick={() => void list.refetch()}>
						<IconRefresh size={16} />
					</IconButton>
					<IconButton label={t.terminal.filesNewFolder} disabled={!list.data} onClick={() => setFolder("")}>
						<IconFolderPlus size={16} />
					</IconButton>
				</Group>
			</div>
			{!terminalId && (
				<Text size="sm" c="dimmed" p="sm">
					{t.terminal.needsOpen}
				</Text>
			)}
			<ul className={classes.list} aria-busy={list.isFetching}>
				{list.error && terminalId && (
					<li>
						<Problem error={list.error} onRetry={() => void list.refetch()} />
					</li>
				)}
				{list.isLoading && [60, 45, 70, 52].map((w) => <li key={w}>{<Skeleton height={12} width={`${w}%`} />}</li>)}
				{list.data?.entries.length === 0 && <li className="quiet">{t.terminal.filesEmpty}</li>}
				{entries.map((f) => (
					<li key={f.name}>
						{f.type === "directory" || f.type === "link" ? (
							<UnstyledButton
								className={classes.entry}
								onClick={() => setPath(join(here, f.name))}
								aria-label={t.terminal.filesOpen(f.name)}
							>
								{f.type === "link" ? <IconLink size={16} aria-hidden /> : <IconFolder size={16} aria-hidden />}
								<span className="truncate">{f.name}</span>
							</UnstyledButton>
						) : (
							<span className={classes.entry}>
								<IconFile size={16} aria-hidden />
								<span className="truncate" title={f.name}>
									{f.name}
								</span>
							</span>
						)}
						{f.type === "file" && <span className={`numbers ${classes.size}`}>{bytes(f.size)}</span>}
						{(f.type === "file" || f.type === "link") && (
							<IconButton
								label={t.terminal.filesDownload(f.name)}
								onClick={() =>
									terminalId &&
									carry(t.terminal.downloading(f.name), f.size, (p, s) =>
										download(terminalId, join(here, f.name), f.name, f.type === "link" ? 0 : f.size, p, s),
									).catch((e) => failed(e, f.name))
								}
							>
								<IconDownload size={16} />
							</IconButton>
						)}
					</li>
				))}
				{list.data?.truncated && <li className="quiet">{t.terminal.filesTruncated}</li>}
			</ul>
			{transfers.length > 0 && (
				<section className={classes.transfers} aria-label={t.terminal.transfers}>
					{transfers.map((x) => (
						<div key={x.key} className={classes.transfer}>
							<Group justify="space-between" wrap="nowrap" gap="xs">
								<span className="truncate" title={x.title}>
									{x.title}
								</span>
								{x.state === "going" ? (
									<IconButton label={`${t.common.cancel}: ${x.title}`} onClick={x.cancel}>
										<IconX size={14} />
									</IconButton>
								) : (
									<span className={classes.size} role="status">
										{x.state === "done"
											? t.terminal.doneWord
											: x.state === "handed"
												? t.terminal.handed
												: x.state === "cancelled"
													? t.terminal.cancelled
													: t.common.problem.title}
									</span>
								)}
							</Group>
							{x.state === "going" && (
								<>
									<Progress
										size="sm"
										value={x.total ? (100 * x.sent) / x.total : 100}
										animated={!x.total}
										aria-label={x.title}
									/>
									<span className={`numbers ${classes.size}`}>
										{bytes(x.sent)} / {x.total ? bytes(x.total) : "?"}
									</span>
								</>
							)}
						</div>
					))}
				</section>
			)}
			<div className={classes.drop}>
				{t.terminal.filesDrop}{" "}
				<FileButton multiple onChange={(f) => void send(f)} disabled={!list.data}>
					{(props) => (
						<Button {...props} size="compact-xs" variant="default">
							{t.terminal.filesChoose}
						</Button>
					)}
				</FileButton>
			</div>
			<Confirm
				title={t.terminal.filesReplace.title(replace?.files.map((f) => f.name).join(", ") ?? "")}
				button={t.terminal.filesReplace.button}
				opened={replace !== undefined}
				onClose={() => setReplace(undefined)}
				act={async () => {
					// Each transfer tells for itself how it goes.
					if (replace) void send(replace.files, replace.folder, true);
				}}
			>
				<Text size="sm">{t.terminal.filesReplace.text}</Text>
			</Confirm>
			<Modal
				opened={folder !== undefined}
				onClose={() => setFolder(undefined)}
				title={<Text fw={600}>{t.terminal.filesNewFolder}</Text>}
				closeButtonProps={{ "aria-label": t.common.close }}
			>
				<form onSubmit={make}>
					<TextInput
						label={t.terminal.filesFolderName}
						value={folder ?? ""}
						onChange={(e) => setFolder(e.currentTarget.value)}
						required
						maxLength={255}
						data-autofocus
						autoComplete="off"
					/>
					<Group justify="flex-end" mt="md" gap="xs">
						<Button variant="default" onClick={() => setFolder(undefined)}>
							{t.common.cancel}
						</Button>
						<Button type="submit">{t.terminal.filesCreate}</Button>
					</Group>
				</form>
			</Modal>
		</aside>
	);
}
