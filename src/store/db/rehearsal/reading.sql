SELECT t.user_nid, u.user_id, t.device_id, t.expires_ms, t.refresh_hash, t.used, a.admin, a.guest, a.locked, a.suspended, a.shadow_banned, d.last_seen_ms FROM access_tokens t JOIN users u ON u.user_nid = t.user_nid JOIN accounts a ON a.user_nid = t.user_nid LEFT JOIN devices d ON d.user_nid = t.user_nid AND d.device_id = t.device_id WHERE t.token_hash = $1 AND NOT a.deactivated
SELECT DISTINCT b.user_nid FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join'
SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE user_nid = $1
SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND pos <= $2 AND content <> '' ORDER BY room_nid, kind
SELECT id, json FROM to_device WHERE user_nid = $1 AND device_id = $2 AND id > $3 ORDER BY id LIMIT $4
SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 GROUP BY algorithm UNION ALL SELECT algorithm, NULL FROM fallback_keys WHERE user_nid = $1 AND device_id = $2 AND NOT used ORDER BY 1
SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership = 'join'
SELECT user_nid FROM users WHERE user_id = $1
SELECT DISTINCT a.user_nid FROM account_data a JOIN memberships m ON m.user_nid = a.user_nid WHERE m.room_nid = $1 AND m.local AND m.membership = 'join' AND a.room_nid = 0 AND a.kind IN ($2, $3) AND a.content <> ''
SELECT key_nid FROM state_keys WHERE event_type = $1 AND state_key = $2
SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership = 'join'
SELECT server, key_id, public_key, valid_ms, old FROM server_keys WHERE server = ANY($1)
SELECT user_nid, user_id, NULL AS state_key FROM users WHERE user_id = ANY($1) UNION ALL SELECT k.key_nid, k.event_type, k.state_key FROM json_array_elements($2::json) AS e(value) CROSS JOIN state_keys k WHERE k.event_type = e.value ->> 0 AND k.state_key = e.value ->> 1
SELECT event_nid FROM events WHERE event_id = $1
SELECT DISTINCT a.user_nid FROM account_data a JOIN memberships m ON m.user_nid = a.user_nid WHERE m.room_nid = $1 AND m.local AND m.membership = 'join' AND a.room_nid = 0 AND a.kind IN ($2, $3) AND a.content <> '' AND a.user_nid = ANY($4)
SELECT stream_id, stale, CAST(NULL AS BIGINT) AS room_nid, CAST(NULL AS BIGINT) AS standing FROM remote_device_lists WHERE user_nid = $1 UNION ALL SELECT * FROM (SELECT CAST(NULL AS BIGINT), CAST(NULL AS BOOLEAN), a.room_nid, e.standing FROM memberships a LEFT JOIN events e ON e.event_nid = a.event_nid WHERE a.user_nid = $1 AND a.membership = 'join' AND EXISTS (SELECT 1 FROM memberships b WHERE b.room_nid = a.room_nid AND b.local AND b.membership = 'join') AND NOT EXISTS (SELECT 1 FROM remote_device_lists WHERE user_nid = $1) LIMIT $2) AS met
SELECT user_nid, password_hash, admin, guest, user_type, appservice_id, created_ms, deactivated, erased, locked, suspended, shadow_banned, approved, consent_version, consent_ms FROM accounts WHERE user_nid = $1
SELECT stream_id, stale FROM remote_device_lists WHERE user_nid = $1
SELECT user_nid FROM remote_device_lists WHERE stale AND user_nid > $1 ORDER BY user_nid LIMIT $2
SELECT a.user_nid FROM memberships a JOIN memberships b ON b.room_nid = a.room_nid AND b.local AND b.membership = 'join' WHERE a.user_nid = $1 AND a.membership = 'join' LIMIT 1
SELECT c.user_nid, c.device_id, c.pos, c.prev, d.device_id IS NOT NULL AS is_there, k.device_id IS NOT NULL AS has_keys, d.display_name FROM device_changes c LEFT JOIN devices d ON d.user_nid = c.user_nid AND d.device_id = c.device_id LEFT JOIN device_keys k ON k.user_nid = c.user_nid AND k.device_id = c.device_id WHERE c.pos = ANY($1) ORDER BY c.pos
SELECT room_nid, room_id, version, rev, snap_nid, depth, extremities, counter, pos, published, creator_nid, created_ms, partial, open, forked, whole_pos, entered_depth FROM rooms WHERE room_nid = ANY($1)
SELECT room_nid, user_nid FROM memberships WHERE local AND membership IN ('join', 'invite', 'knock') AND room_nid = ANY($1)
SELECT content FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND kind = $3
SELECT event_nid FROM events WHERE room_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4
SELECT user_nid, kind, thread, event_id, ts_ms, pos FROM receipts WHERE room_nid = $1 ORDER BY pos DESC LIMIT $2
SELECT membership, COUNT(*) FROM memberships WHERE room_nid = $1 GROUP BY membership
SELECT thread, pos, counter FROM read_positions WHERE room_nid = $1 AND user_nid = $2
SELECT a.thread, SUM(CASE WHEN a.user_nid = 0 AND a.counted AND a.thread <> 'main' THEN 1 ELSE 0 END), SUM(CASE WHEN a.user_nid = 0 THEN 0 WHEN a.notify AND NOT a.counted THEN 1 WHEN a.counted AND NOT a.notify THEN -1 ELSE 0 END), SUM(CASE WHEN a.highlight THEN 1 ELSE 0 END) - SUM(CASE WHEN a.user_nid <> 0 AND e.highlight THEN 1 ELSE 0 END) FROM push_actions a LEFT JOIN push_actions e ON e.user_nid = 0 AND e.room_nid = a.room_nid AND e.pos = a.pos LEFT JOIN read_positions r ON r.room_nid = a.room_nid AND r.user_nid = $1 AND r.thread = a.thread WHERE a.user_nid IN (0, $1) AND a.room_nid = $2 AND a.pos > $3 AND a.pos <= $4 AND (r.pos IS NULL OR a.pos > r.pos) GROUP BY a.thread
SELECT field, value FROM profiles WHERE user_nid = $1 AND field IN ('displayname', 'avatar_url')
SELECT CAST(1 AS BIGINT) FROM memberships WHERE room_nid = $1 AND local AND membership = 'join' LIMIT 1
SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE room_nid = $1 AND user_nid = $2
SELECT id FROM to_device WHERE user_nid = $1 AND device_id = $2 ORDER BY id LIMIT 1
SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND pos > $2 AND pos <= $3 ORDER BY pos
SELECT room_nid, membership FROM memberships WHERE user_nid = $1 AND room_nid = ANY($2)
SELECT DISTINCT user_nid FROM memberships WHERE membership = $1 AND room_nid = ANY($2)
SELECT b.user_nid, MIN(CASE WHEN a.pos > b.pos THEN a.pos ELSE b.pos END) FROM memberships b JOIN memberships a ON a.room_nid = b.room_nid AND a.user_nid = $1 AND a.membership = 'join' WHERE b.membership = 'join' AND b.user_nid = ANY($2) GROUP BY b.user_nid
SELECT room_nid, kind, content, pos FROM account_data WHERE user_nid = $1 AND room_nid = $2 AND content <> '' ORDER BY kind
SELECT user_nid FROM memberships WHERE room_nid = $1 AND membership IN ('join', 'invite') ORDER BY pos, user_nid LIMIT $2
SELECT user_nid, kind, thread, event_id, ts_ms, pos FROM receipts WHERE room_nid = $1 AND user_nid = $2
SELECT event_nid FROM events WHERE event_id = ANY($1)
SELECT u.user_id, m.membership, k.key_nid FROM memberships m JOIN users u ON u.user_nid = m.user_nid JOIN state_keys k ON k.event_type = 'm.room.member' AND k.state_key = u.user_id WHERE m.room_nid = $1 AND NOT m.local AND u.user_id LIKE $2
SELECT event_nid FROM events WHERE room_nid = $1 AND pos IS NOT NULL AND (depth, pos) <= ($2, $3) AND (depth, pos) > ($4, $5) ORDER BY depth DESC, pos DESC LIMIT $6
SELECT field, value FROM profiles WHERE user_nid = $1 ORDER BY field
SELECT room_nid FROM rooms WHERE room_id = $1
SELECT m.user_nid, u.user_id FROM memberships m JOIN users u ON u.user_nid = m.user_nid WHERE m.room_nid = $1 AND m.membership = 'join' AND NOT m.local
SELECT c.user_nid, c.device_id, c.pos, c.prev, d.device_id IS NOT NULL AS is_there, k.device_id IS NOT NULL AS has_keys, d.display_name FROM device_changes c LEFT JOIN devices d ON d.user_nid = c.user_nid AND d.device_id = c.device_id LEFT JOIN device_keys k ON k.user_nid = c.user_nid AND k.device_id = c.device_id WHERE c.user_nid = $1 AND c.device_id <> '' ORDER BY c.pos DESC LIMIT 1
SELECT k.user_nid, 'device', k.device_id, k.json, d.display_name FROM device_keys k JOIN devices d ON d.user_nid = k.user_nid AND d.device_id = k.device_id WHERE k.user_nid = ANY($1) UNION ALL SELECT r.user_nid, 'device', r.device_id, r.json, r.display_name FROM remote_devices r WHERE r.json IS NOT NULL AND r.user_nid = ANY($1) UNION ALL SELECT c.user_nid, c.usage, '', c.json, NULL FROM cross_signing_keys c WHERE c.user_nid = ANY($1)
SELECT MAX(pos) FROM gaps WHERE room_nid = $1
SELECT MAX(pos) FROM gaps WHERE room_nid = $1 AND pos > $2 AND pos <= $3
SELECT depth, pos FROM events WHERE room_nid = $1 AND pos > 0 AND pos <= $2 ORDER BY depth DESC, pos DESC LIMIT 1
SELECT e.event_nid, e.event_id, e.room_nid, e.pos, e.depth, e.standing, e.sender_nid, e.key_nid, e.snap_nid, e.after_nid, e.counter, e.replaces_nid, e.redacted_by, e.device_id, e.txn_id, e.json, r.version FROM events e JOIN rooms r ON r.room_nid = e.room_nid WHERE e.event_nid = ANY($1)
SELECT room_nid, user_nid, membership, event_nid, pos, local, forgotten, stripped FROM memberships WHERE room_nid = $1 AND membership = $2
SELECT room_nid, join_nid, via, servers, again, tries, retry_ms FROM partial_rooms WHERE room_nid = $1
SELECT event_nid, auth FROM events WHERE auth IS NOT NULL AND event_nid = ANY($1)
SELECT event_id, event_nid, room_nid, standing FROM events WHERE event_id = ANY($1)
SELECT MAX(pos) FROM state_changes WHERE room_nid = $1
SELECT event_id, depth, tries, retry_ms FROM missing_events WHERE room_nid = $1 AND depth > $2 AND depth <= $3 ORDER BY depth DESC, event_id LIMIT $4
SELECT event_id FROM missing_events WHERE room_nid = $1 AND event_id = ANY($2)
SELECT user_nid FROM memberships WHERE room_nid = $1 AND user_nid <> $2 AND membership IN ('leave', 'ban') ORDER BY pos, user_nid LIMIT $3
