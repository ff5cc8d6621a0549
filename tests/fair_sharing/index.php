<?php
// Items take 20 ms; the public file has 9 KB, as in the attack, and the large one more than any buffer on the way.
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
if ($path === '/file') {
    echo str_repeat('x', 9000);
} elseif ($path === '/large') {
    echo str_repeat('x', 8 << 20);
} elseif ($_SERVER['REQUEST_METHOD'] === 'POST') {
    echo strlen(file_get_contents('php://input'));
} else {
    usleep(20000);
    header('Content-Type: application/json');
    echo '{"data": []}';
}
