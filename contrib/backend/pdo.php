<?php
// An example backend in PHP: maps in an SQL database that PDO can read, such as MySQL, PostgreSQL or SQLite.
//
//     CREATE TABLE entry (map VARCHAR(64), lookup_key VARCHAR(255), value TEXT, PRIMARY KEY (map, lookup_key));
//     INSERT INTO entry VALUES ('mailboxes', 'alice@example.com', 'example.com/alice/');
//
// To try it:  MAPS_DSN=sqlite:maps.db php -S 127.0.0.1:8080 pdo.php
// In production, PHP-FPM runs it, and its pool sets MAPS_DSN, MAPS_USER and MAPS_PASSWORD with env[].
//
// It answers the /lookup of contrib/config/pfxhttp.yml and contrib/config/virtual-mail.yml. A key that is not in the table is
// answered with 200 and null, and a database that cannot be read with 503, so that the mail waits. The keys in the table are in
// lower case, because Postfix looks up some addresses as the mail client has written them.

declare(strict_types=1);

ini_set('display_errors', '0');  // a warning of PHP must not become a part of the JSON

function respond(int $status, array $answer): never
{
    http_response_code($status);
    $body = json_encode($answer, JSON_INVALID_UTF8_SUBSTITUTE);
    header('Content-Type: application/json');
    header('Content-Length: ' . strlen($body));
    exit($body);
}

if ($_SERVER['REQUEST_METHOD'] !== 'POST' || parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) !== '/lookup') {
    respond(404, ['error' => 'there is nothing here']);
}
$question = json_decode(file_get_contents('php://input'), true);
if (!is_array($question) || !is_string($question['map'] ?? null) || !is_string($question['key'] ?? null)) {
    respond(400, ['error' => 'a JSON object with map and key was expected']);
}
try {
    $database = new PDO((string) getenv('MAPS_DSN'), getenv('MAPS_USER') ?: null, getenv('MAPS_PASSWORD') ?: null);
    $query = $database->prepare('SELECT value FROM entry WHERE map = ? AND lookup_key = ?');
    $query->execute([$question['map'], strtolower($question['key'])]);
    $row = $query->fetch(PDO::FETCH_NUM);
} catch (PDOException $error) {
    error_log('maps: ' . $error->getMessage());
    respond(503, ['error' => 'the database cannot be read']);
}
respond(200, ['data' => ['result' => $row ? $row[0] : null]]);
