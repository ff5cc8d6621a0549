<?php

// The script of PHP's own server, with the same effect as that of `artisan serve`: a path that names a file is the
// file's, every other path is the application's.

$_SERVER['DISPATCHES'] = getenv('DISPATCHES');
$path = urldecode((string) parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
$names_a_file = $path !== '/' && file_exists(__DIR__."/public$path");
if (! $names_a_file) {
    require __DIR__.'/public/index.php';
}

return ! $names_a_file;
